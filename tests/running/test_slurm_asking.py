"""What jobs ask of Slurm: as submitit writes it for sbatch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import DeviceError, UsageError
from qbench.plan.suite.cluster import GpuRequest, SlurmSection
from qbench.plan.suite.suite import Suite, load_suite_text
from qbench.predict.devices import RESERVED_BYTES, parse_memory
from qbench.running.executors.slurm.asking import requests, resources, several
from qbench.running.executors.slurm.submitting import Queue
from tests.running.slurm_standin import install, jobs_of, scripts_of

if TYPE_CHECKING:
    from qbench.running.executors.slurm.asking import Resources
    from tests.workplace import Workplace

LAID_OVER = """\
models: {source: 'random:Mistral-7B', device_map: auto}
precisions: [fp32]
measure: {memory: {batch: 1, prompt_tokens: 8, new_tokens: 2}}
"""
MISTRAL_BYTES = 4 * 7_241_732_096


def load(text: str) -> Suite:
    return load_suite_text(text, "suite.yaml", Path(__file__).parent)


def suite_of(section: str) -> Suite:
    return load(f"models: bundled:tiny-mistral\ncluster: {{slurm: {{{section}}}}}\n")


ENGINE = """
import logging
import sys
from pathlib import Path
from qbench.plan.suite.suite import load_suite
from qbench.running.executors.slurm.cluster import Slurm

closed = []

class Other(logging.Handler):
    def close(self):
        closed.append(self)

other = Other()
Slurm("slurm:local", load_suite(Path("suite.yaml")), None, None)
assert "submitit" in sys.modules
assert not closed
"""


def test_other_handlers_of_logging_stay(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    assert workplace.output_of(ENGINE) == ""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    for name, value in install(tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "submitit").mkdir()
    return Queue(tmp_path / "submitit", local=False)


def script(queue: Queue, place: Path, asked: Resources) -> set[str]:
    """The options of what sbatch was given; the job has nothing to do."""
    found = queue.submit(print, asked)
    assert found.id in jobs_of(place)
    queue.cancel([found])
    (text,) = scripts_of(place)
    return {line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line}


def test_gpus_are_asked_for_by_type(queue: Queue, tmp_path: Path) -> None:
    suite = suite_of(
        "partition: gpu, time: 2-00:00:00, account: us, qos: high, constraint: 'a|b', cpus: 8,"
        " memory: 64G, at_once: 5"
    )
    options = script(queue, tmp_path, resources(suite, "h100", 2, look=False, local=False))
    assert {
        "job-name=qbench",
        "partition=gpu",
        "time=2880",
        "account=us",
        "qos=high",
        "constraint='a|b'",
        "cpus-per-task=8",
        "mem=65536M",
        "gres=gpu:h100:2",
    } <= options
    assert "exclusive" not in options


def test_jobs_on_cpus_have_their_nodes_alone(queue: Queue, tmp_path: Path) -> None:
    suite = suite_of("setup: [module load cuda, export A=1], partition: cpu")
    options = script(queue, tmp_path, resources(suite, None, 0, look=False, local=False))
    assert {"exclusive", "mem=0", "time=75"} <= options
    assert not any(line.startswith("gres") for line in options)
    (text,) = scripts_of(tmp_path)
    assert "\nmodule load cuda\nexport A=1\n" in text
    assert text.index("export A=1") < text.index("submitit.core._submit")
    shared = dict(resources(suite_of("exclusive: false"), None, 0, look=True, local=False))
    assert not {"slurm_exclusive", "slurm_mem"} & shared.keys()
    assert shared["timeout_min"] == 20


def test_what_sbatch_refuses_is_an_error_of_the_user(queue: Queue) -> None:
    asked = resources(suite_of("partition: huge"), None, 0, look=True, local=False)
    with pytest.raises(UsageError, match="invalid partition specified: huge"):
        queue.submit(print, asked)


def test_columns_of_the_suite_or_of_the_call() -> None:
    section = SlurmSection.model_validate_json('{"gpus": ["h100", "gpu:a100:4"]}')
    h100, a100 = GpuRequest("h100", None), GpuRequest("a100", 4)
    assert requests(section, None, None) == [h100, a100]
    assert requests(section, None, "v100:2") == [GpuRequest("v100", 2)]
    assert requests(section, "cpu", None) == [None]
    assert requests(SlurmSection(), None, None) == [None]
    assert requests(SlurmSection(), "cuda", None) == [GpuRequest(None, None)]
    assert requests(SlurmSection(), None, "2") == [GpuRequest(None, 2)]
    with pytest.raises(UsageError, match="any type twice"):
        requests(SlurmSection(), None, "1,2")
    with pytest.raises(DeviceError, match="expected cpu or cuda"):
        requests(SlurmSection(), "cuda:3", None)


def test_a_model_that_is_laid_over_gpus_gets_as_many_as_it_needs() -> None:
    suite = load(LAID_OVER)
    for gpu, count in (("t4", 2), ("h100", 1)):
        assert several(suite, GpuRequest(gpu, None)) == count
        room = parse_memory(gpu).bytes - RESERVED_BYTES
        assert (count - 1) * room < MISTRAL_BYTES < count * room
    assert several(suite, GpuRequest("t4", 4)) == 4
    assert several(suite, None) == 1
    assert several(suite_of(""), GpuRequest("unheard", None)) == 1
    for unknown in ("unheard", "v100", None):
        with pytest.raises(UsageError, match="say how many"):
            several(suite, GpuRequest(unknown, None))
