"""What a run asks of whoever runs its jobs: a protocol, so that a run is the same with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.plan.job import Job

OnEvent = Callable[[dict[str, Any]], None]
"""Gets each event of a worker; see `qbench.running.worker`."""


@dataclass(frozen=True)
class JobEnd:
    """How a worker ended."""

    how: Literal["finished", "crash", "timeout", "oom"]
    reason: str | None = None


class RunStoppedError(Exception):
    """The run was stopped from another thread: its job is to leave no record."""


class Executor(Protocol):
    """Runs jobs of one device, one at a time; a context manager that leaves nothing running."""

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, job: Job, log: Path, timeout_s: float, on_event: OnEvent) -> JobEnd:
        """Runs a job to its end; `log` gets what its worker prints.

        Raises `RunStoppedError` after `stop`.
        """

    def stop(self) -> None:
        """Ends what is running, from another thread: its `run` raises `RunStoppedError`."""


class MakeExecutor(Protocol):
    """Makes the executor of a device, `LocalExecutor` among others."""

    def __call__(self, device: str, jobs: Sequence[Job]) -> Executor:
        """`jobs` are those to come, as far as they are known."""
