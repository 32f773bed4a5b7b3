"""What a run shows while it lasts: live on a terminal, a line a record elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qbench.core.units import counted, format_seconds
from qbench.plan.estimate import Estimate, Left

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from qbench.core.record import Record
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.running.executors.executor import JobEnd

MOST_ROWS = 14
"""Cells shown at once; with more, those around the running one."""
STATUS_STYLE = {
    "ok": "green",
    "skipped": "dim",
    "oom": "yellow",
    "timeout": "yellow",
    "nan": "red",
    "crash": "red",
    "error": "red",
}
_PHASE_WORDS = {
    "fetch": "finding the model",
    "prepare": "preparing the tuned model",
    "load": "loading",
    "verify": "verifying",
}
_QUEUED_WORDS = {
    "queued": "waiting for a free node",
    "waiting": "waiting: another qbench run has the node's device",
}
"""Of jobs on a cluster that wait and do not run."""

_CellName = tuple[str, str]
"""The kind of its device, and its slug."""

_OF_ITEM = ": "
"""Before how much of an item is done."""


class RunDisplay:
    """Shows a run; satisfies `qbench.running.supervision.Watcher`. A context manager."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._spinner = Spinner("dots")
        self._left = Left(Estimate())
        self._total = 0
        self._cells: dict[_CellName, _CellProgress] = {}
        self._waiting = ""
        self._under_way: dict[_CellName, str] = {}
        """What is done now, by cell: one, or as many as there are devices."""
        self._queued: set[_CellName] = set()
        """Those of them that wait for a node."""
        self._last: _CellName | None = None
        self._devices: dict[str, str] = {}
        """Names of the devices that cells run on, by their kind."""
        self._begun = time.monotonic()
        self._task_begun = self._begun
        self._live = Live(
            console=console, refresh_per_second=4, transient=True, get_renderable=self._render
        )

    def __enter__(self) -> Self:
        """Starts the live display, if there is a terminal."""
        self._is_live = self._console.is_terminal and not self._quiet
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the live display away; what it showed is in the summary."""
        self._live.stop()

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        """Counts what is missing and learns from what is there how long it may take.

        Called once for each kind of device that the run uses.
        """
        kind = plan.environment.device_kind
        self._devices[kind] = plan.environment.device
        for cell in (*plan.prerequisites, *plan.cells):
            self._cells[kind, cell.cell.slug] = _CellProgress(total=len(cell.tasks))
            for task in cell.tasks:
                record = plan.records.record(task)
                if record is not None:
                    self._left.recorded(record)
        new = {task.key: (job, task) for job in jobs for task in job.tasks}
        self._left.expect(new.values())
        self._total = len(self._left)
        for job, _ in new.values():
            self._cells[_name(job)].missing += 1
        there = sum(task.key not in self._left for task in plan.tasks)
        self._say(
            f"{'rehearsal of ' if plan.suite.rehearsal else ''}{plan.suite.name}:"
            f" {counted(len(plan.cells), 'cell')} on {plan.environment.device},"
            f" {counted(len(plan.tasks), 'measurement')}, {there} already on disk"
        )
        if self._is_live and jobs:
            self._live.start()

    def waiting(self, device: str) -> None:
        """Another run holds the device."""
        self._waiting = f"waiting: another qbench run is using {device}"
        self._say(self._waiting)

    def started(self, job: Job) -> None:
        """A worker was asked for."""
        self._waiting, self._last = "", _name(job)
        self._under_way[_name(job)] = "starting a worker"
        self._task_begun = time.monotonic()

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        """Shows the phase, or the running item."""
        if event["event"] in _QUEUED_WORDS:
            self._queued.add(_name(job))
            self._under_way[_name(job)] = _QUEUED_WORDS[event["event"]]
            return
        if _name(job) in self._queued:
            self._queued.discard(_name(job))
            self._task_begun = time.monotonic()
        if event["event"] == "phase" and event["phase"] != "measure":
            self._under_way[_name(job)] = _PHASE_WORDS[event["phase"]]
        elif event["event"] == "task":
            item = job.tasks[event["index"]].item
            self._under_way[_name(job)] = f"{item.measurement} {item.slug}"
            self._task_begun = time.monotonic()
        elif event["event"] == "progress":
            self._add_to_item(job, f"{event['done']}/{event['of']}")
        elif event["event"] == "steps":
            done = event["first"] + len(event["loss"])
            self._add_to_item(job, f"{done}/{event['of']}, loss {event['loss'][-1]:.3g}")
        elif event["event"] == "node":
            self._under_way[_name(job)] = f"starting a worker on {event['host']}"

    def recorded(self, job: Job, record: Record) -> None:
        """Counts a record; elsewhere than on a terminal, one line."""
        self._left.recorded(record)
        cell = self._cells[_name(job)]
        cell.missing -= 1
        if record.status != "ok":
            cell.worst = record.status
        if not self._is_live:
            taken = "" if record.duration_s is None else f" {record.duration_s:.1f} s"
            repeat = f" repeat {record.item.repeat + 1}" if record.item.repeat else ""
            self._say(
                f"[{self._total - len(self._left)}/{self._total}] {self._shown(_name(job))}"
                f" {record.item.measurement} {record.item.slug}{repeat}: {record.status}{taken}"
                + (f" ({record.reason})" if record.reason else "")
            )

    def ended(self, job: Job, end: JobEnd) -> None:
        """A worker has ended."""
        self._under_way.pop(_name(job), None)
        self._queued.discard(_name(job))

    def note(self, message: str) -> None:
        """Something the user should know, whatever is shown."""
        self._console.print(Text(f"note: {message}", style="yellow"), soft_wrap=True)

    def _add_to_item(self, job: Job, done: str) -> None:
        begun, _, _ = self._under_way[_name(job)].partition(_OF_ITEM)
        self._under_way[_name(job)] = f"{begun}{_OF_ITEM}{done}"

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name in self._visible():
            cell = self._cells[name]
            mark, style = cell.mark()
            under_way = name in self._under_way
            table.add_row(
                self._spinner if under_way else Text(mark, style=style),
                Text(self._shown(name), style="bold" if under_way else style),
                Text(f"{cell.total - cell.missing}/{cell.total}", style="dim"),
                Text(self._under_way.get(name, ""), style="cyan"),
            )
        done = self._total - len(self._left)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=max(1, self._total), completed=done, width=30),
            Text(f"{done}/{self._total} measurements"),
            Text(f"{format_seconds(time.monotonic() - self._begun)} gone", style="dim"),
            Text(self._waiting or self._time_left(), style="dim"),
        )
        return Group(table, bar)

    def _time_left(self) -> str:
        seconds = self._left.seconds
        running = len(self._under_way) - len(self._queued)
        if seconds is None or (self._queued and not running):
            return "time left not known yet"
        seconds /= max(1, running)
        seconds = max(0.0, seconds - (time.monotonic() - self._task_begun))
        return f"about {format_seconds(seconds)} left"

    def _shown(self, name: _CellName) -> str:
        """A cell's name; with its device where the run has devices of several kinds."""
        kind, slug = name
        return f"{slug} on {self._devices[kind]}" if len(self._devices) > 1 else slug

    def _visible(self) -> list[_CellName]:
        names = list(self._cells)
        if len(names) <= MOST_ROWS or self._last is None:
            return names[:MOST_ROWS]
        middle = names.index(self._last)
        start = min(max(0, middle - MOST_ROWS // 2), len(names) - MOST_ROWS)
        return names[start : start + MOST_ROWS]


def _name(job: Job) -> _CellName:
    return job.environment.device_kind, job.cell.slug


class _CellProgress:
    """How far a cell is."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.missing = 0
        self.worst: str | None = None

    def mark(self) -> tuple[str, str]:
        """A sign and its style."""
        if self.worst is not None:
            return "!", STATUS_STYLE[self.worst]
        return ("✓", "green") if self.missing == 0 else ("·", "dim")
