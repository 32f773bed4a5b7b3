"""What several pictures share: a row for each cell, numbers in their axis's unit, decades."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.core.units import choose_scale

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.units import Display

ROW = 20
"""Pixels of a cell's row where there are few; less where there are many."""
_MANY_ROWS = 24
_THIN_ROW = 14
_MIDDLE_CUT = (
    "length(datum.label) > 28"
    " ? slice(datum.label, 0, 12) + '…' + slice(datum.label, -15) : datum.label"
)
"""A long name loses its middle, since ends tell names apart; the tooltip has all of it."""
_DIGITS = 5
"""Significant digits of drawn numbers: more cannot be seen, and make the page larger."""


def cell_axis() -> dict[str, Any]:
    """The vertical channel that gives each name a row of its own, in the order of the data."""
    return {
        "field": "cell",
        "type": "nominal",
        "sort": None,
        "axis": {
            "title": None,
            "labelExpr": _MIDDLE_CUT,
            "labelLimit": 0,
            "domain": False,
            "ticks": False,
        },
    }


def row_height(rows: int) -> dict[str, int]:
    """The height of a picture that has a row for each of so many cells."""
    return {"step": ROW if rows <= _MANY_ROWS else _THIN_ROW}


def quantity(field: str, title: str, **more: Any) -> dict[str, Any]:
    """The horizontal channel of a number, its title with the unit."""
    axis = {"title": title, "tickCount": 5, "labelOverlap": "greedy", **more.pop("axis", {})}
    return {"field": field, "type": "quantitative", "axis": axis, **more}


def tooltip(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """What is told of a mark, by field and its name."""
    return [{"field": field, "title": title} for field, title in fields.items()]


def rounded(value: float) -> float:
    """A number with as many digits as can be seen."""
    return float(f"{value:.{_DIGITS}g}")


def unit_of(values: Iterable[float], display: Display) -> tuple[str, float]:
    """The unit of an axis that holds these values, and what they are divided by."""
    scale = choose_scale(list(values), display)
    return scale.symbol, scale.divisor


def with_unit(title: str, unit: str) -> str:
    """The title of an axis."""
    return f"{title} ({unit})" if unit else title


def decades(values: Sequence[float]) -> list[float]:
    """The powers of ten from the one below the least positive value to that above the largest."""
    sizes = [value for value in values if value > 0]
    if not sizes:
        return []
    low, high = math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes)))
    powers = (float(f"1e{power}") for power in range(low, high + 1))
    return [power for power in powers if 0 < power < math.inf]
