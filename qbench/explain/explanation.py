"""What an explanation consists of, before it is shown anywhere: texts, tables, pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Grid:
    """A table of texts."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()
    """Columns that are aligned to the right."""


@dataclass(frozen=True)
class Picture:
    """A histogram of weights over an axis, with the levels that they can be held at."""

    counts: tuple[int, ...]
    """Weights in `picture.BINS` equal steps of the axis."""
    low: float
    high: float
    marks: tuple[float, ...] = ()
    """Places of the axis to mark; none where they would lie closer than characters."""


@dataclass(frozen=True)
class Section:
    """A part with a title: sentences, then a table, then a picture, then notes."""

    title: str
    lines: tuple[str, ...] = ()
    grid: Grid | None = None
    picture: Picture | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Everything that is told of one precision."""

    title: str
    sections: tuple[Section, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    """The same in numbers, for programs: plain values, None only beside a `reason`."""
