"""What `--track` asks for: what a run shows is told to trackers too. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qbench.cli.shared import TRACK
from qbench.measures import of_machine
from qbench.report.trackers.delivery import Record as RecordMessage
from qbench.report.trackers.delivery import Report, Steps
from qbench.report.trackers.run import run_of_cell, run_of_record
from qbench.report.trackers.sender import PATIENCE_S, Sender
from qbench.report.trackers.trackers import parse_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from qbench.core.record import Record
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.report.trackers.delivery import Message
    from qbench.running.executors.executor import JobEnd
    from qbench.running.supervision import Watcher

_CellName = tuple[str, str]
"""The kind of its device, and its slug."""
_PAGE = ".html"
_INTERRUPTED_S = 5.0
"""For what is on its way when a run is interrupted."""


class Trackers:
    """The trackers that were asked for; satisfies `Watcher`. A context manager."""

    def __init__(
        self, names: Sequence[str] | None, note: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        """`note` gets what fails, in a thread, `say` where things go and what came of it.

        Raises `UsageError` for an unknown tracker, and for one that cannot begin.
        """
        self._say = say
        self._senders: list[Sender] = []
        self._records: dict[Path, None] = {}
        """What was sent, in order."""
        self._elsewhere: set[_CellName] = set()
        """Cells whose job runs on another machine."""
        self._timed: set[_CellName] = set()
        """Those of which a time is taken on this machine's CPU."""
        kinds = parse_trackers(names or (), TRACK)
        try:
            self._senders += [Sender(kind, note) for kind in kinds]
            for sender in self._senders:
                say(f"tracking with {sender.kind.name}: {sender.begin()}")
        except BaseException:
            self._end(0.0)
            raise

    def __bool__(self) -> bool:
        """Whether anything is tracked."""
        return bool(self._senders)

    @property
    def complete(self) -> bool:
        """Whether each has all that it was to be sent, once they have ended."""
        return all(sender.complete for sender in self._senders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for what is on its way; after an interruption not for long."""
        for told in self._end(PATIENCE_S if kind is None else _INTERRUPTED_S):
            self._say(told)

    def add(self, path: Path) -> None:
        """Sends a record that lies there."""
        self._records[path] = None
        self._send(RecordMessage(path))

    def report(self, files: Iterable[tuple[Sequence[Record], Path]]) -> None:
        """Sends what the report finds of the records that were added, and its pages for browsers.

        `files` are those of the report, each with the records that it is of.
        """
        pages = tuple(
            (run_of_record(records[0]).report, path.absolute())
            for records, path in files
            if path.suffix == _PAGE
        )
        self._send(Report(tuple(self._records), pages))

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        """Sends the records that are there already, so that trackers hold the whole suite."""
        missing = {task.key for job in jobs for task in job.tasks}
        for cell in plan.every:
            for task in cell.tasks:
                if task.key not in missing and plan.records.record(task) is not None:
                    self.add(Path(task.path).absolute())

    def waiting(self, device: str) -> None:
        """Another run holds the device."""

    def started(self, job: Job) -> None:
        """A worker was asked for."""

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        """Sends the steps of trainings, and nothing else while a time is taken on a CPU."""
        if event["event"] == "steps":
            rehearsed = bool(job.rehearsal)
            run = run_of_cell(job.suite, job.cell, job.environment, rehearsal=rehearsed)
            self._send(Steps(run, event))
        elif event["event"] == "node":
            self._elsewhere.add(_name(job))
        elif event["event"] == "task":
            measurement = job.tasks[event["index"]].item.measurement
            here = job.environment.device_type == "cpu" and _name(job) not in self._elsewhere
            self._hold(job, timed=here and of_machine(measurement) and not job.cell.is_training)

    def recorded(self, job: Job, record: Record) -> None:
        """Sends a record."""
        task = next(task for task in job.tasks if task.key == record.key)
        self.add(Path(task.path).absolute())

    def ended(self, job: Job, end: JobEnd) -> None:
        """A worker has ended."""
        self._elsewhere.discard(_name(job))
        self._hold(job, timed=False)

    def note(self, message: str) -> None:
        """Something the user should know."""

    def _send(self, message: Message) -> None:
        for sender in self._senders:
            sender.add(message)

    def _hold(self, job: Job, *, timed: bool) -> None:
        if timed:
            self._timed.add(_name(job))
        else:
            self._timed.discard(_name(job))
        for sender in self._senders:
            (sender.hold if self._timed else sender.release)()

    def _end(self, patience_s: float) -> list[str]:
        return [told for sender in self._senders if (told := sender.end(patience_s))]


def _name(job: Job) -> _CellName:
    return job.environment.device_kind, job.cell.slug


class Watchers:
    """Tells several watchers what happens, in their order."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        """The plan for one kind of device stands."""
        for watcher in self._watchers:
            watcher.planned(plan, jobs)

    def waiting(self, device: str) -> None:
        """Another run holds the device."""
        for watcher in self._watchers:
            watcher.waiting(device)

    def started(self, job: Job) -> None:
        """A worker was asked for."""
        for watcher in self._watchers:
            watcher.started(job)

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        """An event of the worker."""
        for watcher in self._watchers:
            watcher.happened(job, event)

    def recorded(self, job: Job, record: Record) -> None:
        """A record is on disk."""
        for watcher in self._watchers:
            watcher.recorded(job, record)

    def ended(self, job: Job, end: JobEnd) -> None:
        """A worker has ended."""
        for watcher in self._watchers:
            watcher.ended(job, end)

    def note(self, message: str) -> None:
        """Something the user should know."""
        for watcher in self._watchers:
            watcher.note(message)
