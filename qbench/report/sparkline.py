"""A curve as one line of text, of the eight block characters."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""Stands where there is no finite number."""


def sparkline(values: Sequence[float], *, width: int, low: float, high: float) -> str:
    """The values between `low` (▁) and `high` (█) in at most `width` characters.

    Of more values than characters each character is the mean of its share, finite ones alone.
    What lies beyond the ends is drawn at them; with no room between them all is drawn low.
    """
    return "".join(_character(value, low, high) for value in downsample(values, width))


def downsample(values: Sequence[float], width: int) -> list[float | None]:
    """Means of at most `width` runs of neighbours, as equal in length as can be.

    A run without a finite number is None. Raises ValueError for a width below 1.
    """
    if width < 1:
        raise ValueError(f"a curve needs at least one character, not {width}")
    runs = min(width, len(values))
    means: list[float | None] = []
    for run in range(runs):
        part = values[run * len(values) // runs : (run + 1) * len(values) // runs]
        finite = [value for value in part if math.isfinite(value)]
        means.append(statistics.fmean(finite) if finite else None)
    return means


def _character(value: float | None, low: float, high: float) -> str:
    if value is None:
        return GAP
    share = (value - low) / (high - low) if high > low else 0.0
    return LEVELS[min(len(LEVELS) - 1, max(0, int(share * len(LEVELS))))]
