"""What a tracker of experiments is to qbench, and what it must be able to say and take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qbench.report.trackers.run import TrackedRun
    from qbench.report.trackers.told import Entry, Point


@dataclass
class Already:
    """What a run of a tracker holds: nothing of it is sent a second time."""

    records: dict[str, str] = field(default_factory=dict)
    """By the keys of records, when those that were sent were taken; by the names of pages, digests
    of their contents."""
    steps: int = 0
    """Steps of the training whose losses are there."""
    validated: frozenset[int] = frozenset()
    """Steps before the evaluations that are there."""
    values: dict[str, float] = field(default_factory=dict)
    """The last value of each number."""


class OpenRun(Protocol):
    """A run of a tracker that takes what it is told. Anything that fails raises."""

    already: Already

    def add(self, entry: Entry) -> None:
        """Adds a record: its numbers, words and file."""

    def draw(self, points: Sequence[Point]) -> None:
        """Adds to the curves of a training."""

    def log(self, values: dict[str, float]) -> None:
        """Adds numbers that are of no single record."""

    def show(self, page: Path, digest: str) -> None:
        """Adds the report's page, an HTML file, and of its contents a digest."""

    def keep(self) -> None:
        """Keeps what `already` says by now where the next `open` finds it, if it is not there."""

    def close(self) -> None:
        """Nothing more comes for now: sends what is still on its way."""


class Tracker(Protocol):
    """A place that runs are sent to; made in a process of its own, which may print and import."""

    most_open: int
    """Runs that may be open at once."""

    def __init__(self) -> None: ...

    def begin(self) -> str:
        """Where things go, in words. Raises `UsageError` where a person must mend something."""

    def check(self) -> None:
        """Raises, whatever its library raises, where it cannot be reached."""

    def open(self, run: TrackedRun) -> OpenRun:
        """That run, new or as an earlier process left it."""


@dataclass(frozen=True)
class Kind:
    """A line of the table of trackers."""

    name: str
    """As `--track` has it."""
    package: str
    """What must be installed."""
    summary: str
    make: Callable[[], Tracker]
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that hold unless the user has set them: no telemetry, no long waits."""
