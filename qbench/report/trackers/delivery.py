"""Sends records, curves and pages to one tracker; what fails is kept and tried again."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.credentials import without_credentials
from qbench.core.errors import StoreError
from qbench.core.names import shortened
from qbench.core.store import read_record
from qbench.report.trackers.run import TrackedRun, run_of_record
from qbench.report.trackers.told import (
    curve_of_event,
    curve_of_record,
    entry_of,
    found_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.report.trackers.told import Curve
    from qbench.report.trackers.tracker import OpenRun, Tracker

PAUSE_S = 30.0
"""After something failed, before anything is tried again."""

_LONGEST = 200
"""Letters of what a library says of a failure."""


@dataclass(frozen=True)
class Record:
    """A record is on disk."""

    path: Path


@dataclass(frozen=True)
class Steps:
    """A training goes on."""

    run: TrackedRun
    event: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """All records are taken: what the report finds of them, and its pages."""

    paths: tuple[Path, ...]
    pages: tuple[tuple[TrackedRun, Path], ...]


Message = Record | Steps | Report


class Delivery:
    """Takes messages in order; runs of the tracker stay open, as many as it can have open."""

    def __init__(self, tracker: Tracker, complain: Callable[[str], None]) -> None:
        """`complain` gets the first failure in words, and no other."""
        self._tracker = tracker
        self._complain = complain
        self._complained = False
        self._open: dict[TrackedRun, OpenRun] = {}
        """The one that was used last stands last."""
        self._current: TrackedRun | None = None
        """That one, while something is sent to it."""
        self._waiting: deque[Message] = deque()
        self._unclosed = 0
        self._next_try = 0.0
        self.sent = 0
        """Records that were sent by this process."""
        self.there = 0
        """Those that an earlier one had sent."""

    @property
    def left(self) -> int:
        """Messages that could not be sent, and runs that did not take all."""
        return len(self._waiting) + self._unclosed

    def take(self, message: Message) -> None:
        """Sends it, with what waited, unless something has failed just before."""
        self._waiting.append(message)
        if time.monotonic() >= self._next_try:
            self._try()

    def end(self) -> None:
        """Tries what is left once more, and closes what is open."""
        self._try(each=True)
        for run in list(self._open):
            try:
                self._close(run)
            except Exception as error:  # noqa: BLE001 - a tracker may raise anything
                self._unclosed += 1
                self.fail(error)

    def _try(self, *, each: bool = False) -> None:
        """Sends what waits, up to the first failure; or `each` of it once."""
        for _ in range(len(self._waiting)):
            message = self._waiting.popleft()
            try:
                self._send(message)
            except Exception as error:  # noqa: BLE001 - a tracker may raise anything
                self._waiting.append(message)  # behind the others, which may not fail
                self._forget()
                self.fail(error)
                if not each:
                    return

    def _forget(self) -> None:
        """The run that something failed for may hold another thing than was believed."""
        if self._current is not None:
            self._open.pop(self._current)

    def fail(self, error: Exception) -> None:
        """Something failed: it is told if it is the first, and nothing is tried for a while."""
        self._next_try = time.monotonic() + PAUSE_S
        if not self._complained:
            self._complained = True
            self._complain(in_words(error))

    def _send(self, message: Message) -> None:
        self._current = None
        if isinstance(message, Record):
            self._send_record(message.path)
        elif isinstance(message, Steps):
            self._draw(self._run(message.run), curve_of_event(message.event))
        else:
            self._send_report(message)

    def _send_record(self, path: Path) -> None:
        record = read_record(path)
        if record is None:
            raise StoreError(f"{path}: the record is gone")
        run = self._run(run_of_record(record))
        already = run.already
        if already.records.get(record.key) == record.started_at:
            self.there += 1
            return
        curve = curve_of_record(record)
        if curve is not None:
            self._draw(run, curve)
        entry = entry_of(record, path)
        run.add(entry)
        already.values |= entry.numbers
        already.records[entry.key] = entry.taken
        run.keep()
        self.sent += 1

    def _draw(self, run: OpenRun, curve: Curve) -> None:
        already = run.already
        points = curve.beyond(already.steps, already.validated)
        if not points:
            return
        run.draw(points)
        already.steps = max(already.steps, *(point.step + 1 for point in curve.steps), 0)
        already.validated |= {point.step for point in curve.validation}
        run.keep()

    def _send_report(self, message: Report) -> None:
        records = [record for path in message.paths if (record := read_record(path)) is not None]
        for of, values in found_of(records).items():
            run = self._run(of)
            new = {name: one for name, one in values.items() if run.already.values.get(name) != one}
            if new:
                run.log(new)
                run.already.values |= new
        for of, page in message.pages:
            run, digest = self._run(of), hashlib.sha256(page.read_bytes()).hexdigest()
            if run.already.records.get(page.name) != digest:
                run.show(page, digest)
                run.already.records[page.name] = digest
                run.keep()

    def _run(self, run: TrackedRun) -> OpenRun:
        self._current = None
        opened = self._open.pop(run, None)
        if opened is None:
            while len(self._open) >= self._tracker.most_open:
                self._close(next(iter(self._open)))
            opened = self._tracker.open(run)
        self._open[run], self._current = opened, run
        return opened

    def _close(self, run: TrackedRun) -> None:
        self._open.pop(run).close()


def in_words(error: Exception) -> str:
    """What was raised, in one line that is not too long and holds no credentials."""
    said = " ".join(without_credentials(str(error)).split()) or "no message"
    return f"{type(error).__name__}: {shortened(said, _LONGEST)}"
