"""Runs jobs in the process that asks for them: no start, no shelter from what a job does to it.

For tests of all that goes on around a worker, and for debuggers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from qbench.running.executors.device_locks import devices_held
from qbench.running.executors.executor import JobEnd, RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from qbench.plan.job import Job
    from qbench.running.executors.executor import OnEvent

    Work = Callable[[Job, OnEvent], JobEnd | None]


class InlineExecutor:
    """Does the work itself; what it prints goes where this process prints."""

    def __init__(self, device: str, jobs: Sequence[Job] = (), *, work: Work | None = None) -> None:
        """`work` is a worker's by default; another one may return how its worker is to end."""
        self._device = device
        self._work = work or _run_job
        self.stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""

    def stop(self) -> None:
        """The running job goes to its end all the same; then its `run` raises."""
        self.stopped = True

    def device_held(self, job: Job, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """A context in which no other run of this machine uses the job's devices."""
        return devices_held(self._device, job.cell.model, lambda: self.stopped, on_wait)

    def run(self, job: Job, log: Path, timeout_s: float, on_event: OnEvent) -> JobEnd:
        """Runs a job to its end, however long it takes; raises `RunStoppedError` after `stop`."""
        if self.stopped:
            raise RunStoppedError
        end = self._work(job.model_copy(update={"device": self._device}), on_event)
        if self.stopped:
            raise RunStoppedError
        return end or JobEnd("finished")


def _run_job(job: Job, on_event: OnEvent) -> None:
    from qbench.running.worker import run_job

    run_job(job, on_event)
