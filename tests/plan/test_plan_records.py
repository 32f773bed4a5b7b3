"""The records of a plan: each file is read once, and what others do to it is seen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import StoreError
from qbench.core.store import write_record
from qbench.plan.plan import make_plan
from qbench.plan.records import RecordsOnDisk
from qbench.plan.suite.suite import load_suite_text
from tests.inline_runs import pretended, run_inline

if TYPE_CHECKING:
    from qbench.plan.job import Job
    from tests.workplace import Workplace


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path) -> Job:
    """With one task."""
    text = f"models: [{tiny_model}]\nprecisions: [fp32]\nmeasure: [footprint]\n"
    suite = load_suite_text(text, "suite.yaml", tmp_path)
    (job,) = make_plan(suite, tmp_path / "results", device="cpu").jobs(lambda _: True)
    return job


def test_what_was_read_is_handed_on(job: Job) -> None:
    (task,) = job.tasks
    records = RecordsOnDisk()
    assert records.record(task) is None
    write_record(Path(task.path), job.record(task, "ok"))
    found = records.record(task)
    assert found == job.record(task, "ok", started_at=found.started_at if found else None)
    assert records.record(task) is found
    assert records.damage(task) is None


def test_what_others_write_is_seen(job: Job) -> None:
    (task,) = job.tasks
    records = RecordsOnDisk()
    for status in ("error", "ok"):
        write_record(Path(task.path), job.record(task, status, reason="of another run"))
        found = records.record(task)
        assert found is not None
        assert found.status == status


def test_what_becomes_of_a_file_is_seen(job: Job) -> None:
    (task,) = job.tasks
    path = Path(task.path)
    records = RecordsOnDisk()
    write_record(path, job.record(task, "ok"))
    assert records.record(task) is not None
    path.write_bytes(path.read_bytes()[:100])  # in place: the same file
    assert records.record(task) is None
    assert "cut short" in str(records.damage(task))
    assert records.damage(task) is records.damage(task)
    path.unlink()
    assert (records.record(task), records.damage(task)) == (None, None)
    path.mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        records.record(task)


COUNTED = """\
import sys
opened = []
def hear(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".json") and "results" in str(arguments[0]):
        opened.append(str(arguments[0]))
sys.addaudithook(hear)
sys.argv[0] = "qbench"
try:
    from qbench.cli.main import main
    main()
finally:
    print("\\n".join(f"opened {path}" for path in opened))
"""


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_command_reads_each_record_once(workplace: Workplace, command: str) -> None:
    workplace.write_suite("fp32", "bf16")
    assert not run_inline(workplace, work=pretended()).result.failed
    told = workplace.output_of(COUNTED, command, "suite.yaml")
    opened = [line for line in told.splitlines() if line.startswith("opened ")]
    counts = Counter(line.rpartition("/")[2] for line in opened)
    assert counts == {name.rpartition("/")[2]: 1 for name in workplace.records()}
