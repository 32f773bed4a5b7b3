"""What the harness costs a cell: from asking for its process to its model loaded.

The first cell waits for the server's imports; every further one is forked. A bare import of the
same libraries in a process of its own is what each cell would cost without the server.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.running.executors.local import LocalExecutor

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from qbench.plan.job import Job

SUITE = "models: [{}]\nprecisions: [fp32]\nmeasure: [footprint]\n"
BARE_IMPORT = "import sys; sys.modules['kernels'] = None; import torch, transformers, bitsandbytes"


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job with next to nothing to measure."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    suite = load_suite_text(SUITE.format(tiny_model), "suite.yaml", tmp_path)
    (only,) = make_plan(suite, tmp_path / "results", device="cpu").jobs(lambda _: True)
    return only


def test_first_cell(benchmark: BenchmarkFixture, job: Job, tmp_path: Path) -> None:
    def start_and_run() -> str:
        with LocalExecutor("cpu") as executor:
            return executor.run(job, tmp_path / "log", 60.0, lambda _: None).how

    assert benchmark.pedantic(start_and_run, rounds=3) == "finished"


def test_one_more_cell(benchmark: BenchmarkFixture, job: Job, tmp_path: Path) -> None:
    with LocalExecutor("cpu") as executor:
        run = (job, tmp_path / "log", 60.0, _ignore)
        end = benchmark.pedantic(executor.run, run, rounds=5, warmup_rounds=1)
    assert end.how == "finished"


def test_bare_import(benchmark: BenchmarkFixture) -> None:
    command = [sys.executable, "-c", BARE_IMPORT]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=3)


def _ignore(_: dict[str, Any]) -> None:
    pass
