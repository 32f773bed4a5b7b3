"""The executor: events in order, a server that is started again, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.executors.local import LocalExecutor
from qbench.plan import make_plan
from qbench.store import read_record
from qbench.suite import load_suite_text
from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    from qbench.job import Job

SUITE = "models: [{}]\nprecisions: [fp32]\nmeasure: [footprint]\n"


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A place whose processes this test's own process starts."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Workplace(tmp_path, tiny_model)


def only_job(place: Workplace) -> Job:
    suite = load_suite_text(SUITE.format(place.model), "suite.yaml", place.folder)
    (job,) = make_plan(suite, place.folder / "results", device="cpu").jobs(lambda _: True)
    return job


def test_events_a_lost_server_and_a_timeout(place: Workplace) -> None:
    job, log = only_job(place), place.folder / "worker.log"
    record_path = Path(job.tasks[0].path)
    with LocalExecutor("cpu") as executor:
        events: list[dict[str, Any]] = []
        end = executor.run(job, log, 60.0, events.append)
        assert end.how == "finished"
        assert end.reason is None
        told = [event.get("phase") or event["event"] for event in events]
        assert told == ["fetch", "load", "verify", "task", "measure", "record"]
        assert events[-1] == {"event": "record", "index": 0, "status": "ok"}
        record = read_record(record_path)
        assert record is not None
        assert record.status == "ok"

        record_path.unlink()
        assert len(place.survivors()) == 1  # the server, waiting
        (server,) = (int(line.partition(":")[0]) for line in place.survivors())
        os.kill(server, signal.SIGKILL)
        end = executor.run(job, log, 60.0, events.append)
        assert end.how == "crash"
        assert "SIGKILL" in (end.reason or "")
        assert not record_path.exists()

        end = executor.run(job, log, 0.001, events.append)
        assert end.how == "timeout"
        assert "0.001 s" in (end.reason or "")
        assert "timeout_s" in (end.reason or "")
        assert place.survivors() == []

        end = executor.run(job, log, 60.0, events.append)
        assert end.how == "finished"
        assert record_path.exists()
    assert place.survivors() == []


def test_an_executor_that_is_left_at_once_leaves_nothing(place: Workplace) -> None:
    with LocalExecutor("cpu"):
        pass
    assert place.survivors() == []


def test_a_server_that_cannot_import_is_told_with_its_reason(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that fails when it is imported, as one with a missing library does."""
    broken = place.folder / "modules" / "torch"
    broken.mkdir(parents=True)
    text = "raise OSError('libfoo.so.3: cannot open shared object file')\n"
    (broken / "__init__.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(broken.parent))
    job, log = only_job(place), place.folder / "worker.log"
    with LocalExecutor("cpu") as executor:
        end = executor.run(job, log, 60.0, lambda _: None)
    words = (end.reason or "") + (log.read_text(encoding="utf-8") if log.exists() else "")
    record = read_record(Path(job.tasks[0].path))
    words += (record.reason or "") if record is not None else ""
    assert "libfoo.so.3" in words


LIFELINE = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c",
     "import time; from qbench.executors.lifeline import die_with_parent as die;"
     f"die({{os.getpid()}}); print('alive', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE, start_new_session=True,
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep({})
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_process_dies_with_its_parent(place: Workplace, how: str) -> None:
    code = LIFELINE.format(600 if how == "killed" else 0)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if how == "killed":
            parent.kill()
    assert place.survivors() == []
    assert not is_running(child)


def is_running(pid: int) -> bool:
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
        except OSError:
            return False
        if state.split()[0] == "Z":
            return False
        time.sleep(0.02)
    return True


def test_a_process_whose_parent_is_already_gone_ends_at_once() -> None:
    code = "from qbench.executors.lifeline import die_with_parent as die; die(1); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
