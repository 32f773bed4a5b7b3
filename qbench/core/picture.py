"""A histogram in characters, and marks at places of its axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

BINS = 945
"""Steps of the axis that weights are counted in: as many as every width below divides."""
WIDTHS = (105, 63, 45, 35, 27, 21)
"""Characters across; odd, so that 0 has a column of its own in the middle."""
WIDTH = 63
"""Where the place that it is shown in has no width of its own."""
HEIGHT = 8
"""Lines of the tallest bar."""
MARK = "▲"

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def picture_of(
    values: torch.Tensor, low: float, high: float, marks: Iterable[float] = ()
) -> Picture:
    """Counts the values between `low` and `high`; what lies outside is counted at the ends."""
    counts = values.reshape(-1).clamp(low, high).histc(BINS, low, high).tolist()
    return Picture(tuple(map(int, counts)), low, high, tuple(marks))


def histogram_figures(picture: Picture | None) -> dict[str, Any] | None:
    """A picture in numbers, for programs: the columns that are drawn where there is room enough."""
    if picture is None:
        return None
    return {"low": picture.low, "high": picture.high, "counts": columns(picture, WIDTH)}


def draw(picture: Picture, room: int = WIDTH) -> tuple[str, ...]:
    """Bars over an axis, with the marks underneath: lines of one width, at most `room` if it can.

    The narrowest picture has 21 characters.
    """
    width = next((width for width in WIDTHS if width <= room), WIDTHS[-1])
    low, high = picture.low, picture.high
    marked = (_marks(picture.marks, low, high, width),) if picture.marks else ()
    return (*bars(columns(picture, width)), *_axis(low, high, width), *marked)


def columns(picture: Picture, width: int) -> list[int]:
    """The counts in so many columns of equal width; one of `WIDTHS`."""
    step = len(picture.counts) // width
    return [sum(picture.counts[at : at + step]) for at in range(0, len(picture.counts), step)]


def column(value: float, low: float, high: float, width: int) -> int:
    """Which of `width` equal columns between `low` and `high` a value falls in; ends are kept."""
    return max(0, min(width - 1, int((value - low) / (high - low) * width)))


def bars(counts: Sequence[float], height: int = HEIGHT) -> list[str]:
    """One bar a count, the largest `height` lines high, drawn to an eighth of a line.

    A count above 0 is never drawn as nothing.
    """
    largest = max(counts, default=0)
    if not largest:
        return [" " * len(counts)] * height
    eighths = [max(1, round(count / largest * height * 8)) if count else 0 for count in counts]
    return [
        "".join(_EIGHTHS[max(0, min(8, each - 8 * (height - 1 - line)))] for each in eighths)
        for line in range(height)
    ]


def _marks(places: Iterable[float], low: float, high: float, width: int) -> str:
    """A line with a mark in the column of every place."""
    marked = {column(place, low, high, width) for place in places}
    return "".join(MARK if index in marked else " " for index in range(width))


def _axis(low: float, high: float, width: int) -> tuple[str, str]:
    """The axis with a tick in its middle, and its ends and middle in numbers."""
    left, middle, right = (f"{value:.3g}" for value in (low, (low + high) / 2, high))
    half = width // 2
    labels = left.ljust(half - len(middle) // 2) + middle
    return "─" * half + "┴" + "─" * (width - half - 1), labels.ljust(width - len(right)) + right
