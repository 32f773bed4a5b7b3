"""What a run asks of whoever runs its jobs: protocols, so that a run is the same with each.

An engine knows machines: it finds their devices, lays out the suite for each kind of them, and
makes executors. An executor runs jobs on one device, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

from qbench.plan.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.plan.shards import Shard
    from qbench.plan.suite.suite import Suite

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

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def device_held(self, job: Job, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """A context in which no other run uses the job's devices.

        `on_wait` is called once where another one has them. One whose jobs wait for their devices
        on another machine, in `run`, need not do anything. Raises `RunStoppedError` after `stop`.
        """

    def run(self, job: Job, log: Path, timeout_s: float, on_event: OnEvent) -> JobEnd:
        """Runs a job to its end; `log` gets what its worker prints.

        The record of a task is on disk, at the task's path, before `on_event` is told of it.
        Raises `RunStoppedError` after `stop`.
        """

    def stop(self) -> None:
        """Ends what is running, from another thread: its `run` raises `RunStoppedError`."""


def _unheard(_: str) -> None:
    pass


@dataclass(frozen=True)
class Asked:
    """What of a suite is to be laid out, for any device."""

    suite: Suite
    results: Path
    only: tuple[str, ...] = ()
    """Patterns of the cells to keep; all cells where there are none."""
    shard: Shard | None = None
    """Which part of those; all of them where it is None."""
    keep_unfit: bool = False
    """Whether what does not fit a GPU by arithmetic is left in."""
    note: Callable[[str], None] = field(default=_unheard, compare=False, repr=False)
    """Gets what the user should know meanwhile; nobody hears it on a node."""

    def plan_on(self, device: str | None) -> Plan:
        """The suite on a device of this machine, as for `make_plan`. Raises `UsageError`."""
        return make_plan(
            self.suite,
            self.results,
            device=device,
            only=self.only,
            shard=self.shard,
            keep_unfit=self.keep_unfit,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "note": _unheard}


@dataclass(frozen=True)
class Column:
    """What a suite means on devices of one kind, whose figures stand in one column."""

    plan: Plan
    slots: tuple[str, ...]
    """Names of what runs one job at a time: the GPUs of this machine, or places in a cluster."""

    @property
    def kind(self) -> str:
        """The devices' kind, which no other column of a run has."""
        return self.plan.environment.device_kind


class Slot(NamedTuple):
    """What runs one job at a time."""

    kind: str
    """Of its device: it runs jobs that were laid out for this kind alone."""
    name: str


class Engine(Protocol):
    """Runs the jobs of a suite on machines that it knows; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Leaves nothing running."""

    def columns(self, asked: Asked) -> Sequence[Column]:
        """The suite on each kind of device that its jobs are to run on.

        Raises `UsageError` where there is none, or where they cannot be used together.
        """

    def problems(self, column: Column, jobs: Sequence[Job], results: Path) -> list[Problem]:
        """All that would prevent these jobs, which a person can mend, found where they run."""

    def executor(self, slot: Slot, jobs: Sequence[Job]) -> Executor:
        """Who runs jobs in a slot; `jobs` are those to come, as far as they are known."""


class MakeExecutor(Protocol):
    """Makes the executor of a device of this machine, `LocalExecutor` among others."""

    def __call__(self, device: str, jobs: Sequence[Job]) -> Executor:
        """`jobs` are those to come, as far as they are known."""
