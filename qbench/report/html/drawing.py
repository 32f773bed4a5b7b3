"""A histogram as shapes: bars over an axis, and marks under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.picture import WIDTHS, columns

if TYPE_CHECKING:
    from qbench.core.page import Picture

_WIDTH = WIDTHS[0]
HEIGHT = 100.0
"""Of the tallest bar, in the picture's own units; a bar is 1 unit wide."""


@dataclass(frozen=True)
class Drawn:
    """Bars from left to right, and where the marks stand, in units of the picture."""

    width: int
    bars: tuple[float, ...]
    """Heights."""
    marks: tuple[float, ...]
    ticks: tuple[str, str, str]
    """The axis at its left end, its middle and its right end."""
    description: str


def drawn(picture: Picture) -> Drawn:
    """The picture in as many bars as the widest one in characters has."""
    counts = columns(picture, _WIDTH)
    largest = max(counts, default=0) or 1
    low, high = picture.low, picture.high
    span = (high - low) or 1.0
    left, middle, right = (f"{value:.3g}" for value in (low, (low + high) / 2, high))
    marked = f"; {len(picture.marks)} marked places" if picture.marks else ""
    return Drawn(
        width=_WIDTH,
        bars=tuple(round(HEIGHT * count / largest, 2) for count in counts),
        marks=tuple(round(_WIDTH * (mark - low) / span, 2) for mark in picture.marks),
        ticks=(left, middle, right),
        description=f"Histogram of {sum(counts):,} weights from {left} to {right}{marked}",
    )
