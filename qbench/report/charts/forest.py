"""Differences with their intervals, margins and verdicts: a small picture for each metric."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import TASKS
from qbench.core.page import Chart, Charts
from qbench.core.units import counted
from qbench.report.charts.axes import cell_axis, quantity, rounded, row_height, tooltip, with_unit
from qbench.report.charts.verdicts import (
    ALIKE,
    BETTER,
    CHANGED,
    EQUAL,
    OPEN,
    WORSE,
    counted_verdicts,
    signs_in_words,
    verdict_channels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.marks import Allowance, Mark
    from qbench.core.page import Part
    from qbench.core.record import Better
    from qbench.report.differences import Differences, Line

_VERDICTS = {
    "better": BETTER,
    "worse": WORSE,
    "changed": CHANGED,
    "equivalent": ALIKE,
    "equal": EQUAL,
    "undecided": OPEN,
}
_AT_FIRST = ("quality", "needle", *TASKS, "completion")
"""Measurements whose differences are shown at once; what others cost is in the table above."""
_EDGE = 8
"""Pixels between the outermost mark and the edge."""
_MANY_CELLS = 60
"""Beyond this number all are to be opened: each picture is higher than a screen."""
_FAR = 40.0
"""Margins beyond which an axis is not linear: what is near the margin could not be seen."""


@dataclass(frozen=True)
class Change:
    """One row: a difference as it was judged, in the unit that it is shown in."""

    label: str
    value: float
    low: float
    """Ends of the 95 % interval."""
    high: float
    inner_low: float
    """Ends of the 90 % interval, which decides whether it is equivalent."""
    inner_high: float
    verdict: str
    margin: float
    """Within this on either side of 0 it would be called the same."""


def change_of(
    label: str, found: Difference | Gap | None, mark: Mark, verdict: str, margin: Allowance
) -> Change | None:
    """A row; None where no interval is known, or it has no end."""
    if found is None or isinstance(found, Gap):
        return None
    ends = (found.plain, mark.low, mark.high, *found.ends(Sampling().alpha))
    known = [end for end in ends if end is not None and math.isfinite(end)]
    if len(known) < len(ends):
        return None
    value, low, high, inner_low, inner_high = known
    factor = 100 if margin.relative else 1
    return Change(
        label=label,
        value=factor * value,
        low=factor * low,
        high=factor * high,
        inner_low=factor * inner_low,
        inner_high=factor * inner_high,
        verdict=verdict,
        margin=factor * margin.amount,
    )


def difference_charts(differences: Differences) -> list[Part]:
    """The differences of the table; those of quality at once, the others to be opened."""
    drawn = [
        (line, chart)
        for line in differences.lines
        if (chart := _line_chart(differences, line)) is not None
    ]
    first = tuple(chart for line, chart in drawn if line.item.measurement in _AT_FIRST)
    more = tuple(chart for line, chart in drawn if line.item.measurement not in _AT_FIRST)
    if not first:
        first, more = more, ()
    many = len(differences.cells) > _MANY_CELLS
    told = "Pictures of these differences" if many else ""
    parts: list[Part] = [Charts(first, HOW_TO_READ, folded=told)] if first else []
    if more:
        parts.append(Charts(more, HOW_TO_READ, folded="Differences of costs and generations"))
    return parts


def _line_chart(differences: Differences, line: Line) -> Chart | None:
    changes = [
        change
        for one in differences.found
        if one.line is line
        and (change := change_of(one.cell, one.found, one.mark, one.verdict, line.allowance))
    ]
    return forest(
        line.title,
        changes,
        axis=axis_of(line.metric.unit, line.metric.better, relative=line.allowance.relative),
        reference=differences.reference,
    )


def axis_of(unit: str, better: Better = "neither", *, relative: bool) -> str:
    """The title of the axis: what the difference is in, and which way is better."""
    shown = "%" if relative else "" if unit == "1" else unit
    title = with_unit("change" if relative else "difference", shown)
    return title if better == "neither" else f"{title}, {better} is better"


def forest(
    title: str, changes: Sequence[Change], *, axis: str, reference: str = ""
) -> Chart | None:
    """The changes below one another; None where there is none."""
    if not changes:
        return None
    rows = [
        {
            "cell": one.label,
            "value": rounded(one.value),
            "low": rounded(one.low),
            "high": rounded(one.high),
            "inner_low": rounded(one.inner_low),
            "inner_high": rounded(one.inner_high),
            "verdict": one.verdict,
            "margin": rounded(one.margin),
        }
        for one in changes
    ]
    scale, ticks = _scale(changes)
    x = quantity("value", axis, scale=scale, axis=ticks)
    colour, shape = verdict_channels(_VERDICTS)
    told = tooltip(
        {
            "cell": "cell",
            "value": "difference",
            "low": "95 % from",
            "high": "95 % to",
            "verdict": "verdict",
        }
    )
    y = cell_axis()
    spec: dict[str, Any] = {
        "data": {"values": rows},
        "height": row_height(len(changes)),
        "encoding": {"y": y, "tooltip": told},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 4},
                "encoding": {
                    "x": {**x, "field": "inner_low"},
                    "x2": {"field": "inner_high"},
                    "color": colour,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": x, "color": colour, "shape": shape},
            },
        ],
    }
    return Chart(title, _described(title, changes, reference), _with_margin(spec, x))


def _with_margin(spec: dict[str, Any], x: dict[str, Any]) -> dict[str, Any]:
    """The picture over a band from the margin below 0 to that above, and a line at 0."""
    zero = {
        "data": {"values": [{"value": 0}]},
        "mark": {"type": "rule", "strokeDash": [3, 3], "color": "#888888"},
        "encoding": {"x": x, "y": None, "tooltip": None},
    }
    band = {
        "transform": [{"calculate": "-datum.margin", "as": "lowest"}],
        "mark": {"type": "rect", "opacity": 0.18, "color": "#888888"},
        "encoding": {
            "x": {**x, "field": "lowest"},
            "x2": {"field": "margin"},
            "tooltip": None,
        },
    }
    has_margin = any(row["margin"] for row in spec["data"]["values"])
    return {**spec, "layer": [*([band] if has_margin else []), zero, *spec["layer"]]}


def _scale(changes: Sequence[Change]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A linear axis; logarithmic outside the margin where a change is many times the margin."""
    amount = max(one.margin for one in changes)
    largest = max(abs(end) for one in changes for end in (one.low, one.high))
    if not amount or largest <= _FAR * amount:
        return {"zero": True, "padding": _EDGE}, {}
    ends = [
        min(-amount, *(one.low for one in changes)),
        max(amount, *(one.high for one in changes)),
    ]
    steps = [amount]
    while 10 * steps[-1] <= largest:
        steps.append(rounded(10 * steps[-1]))
    ticks = [0.0, *(end for step in steps for end in (-step, step) if ends[0] <= end <= ends[1])]
    domain = [*map(rounded, ends)]
    scale = {"type": "symlog", "constant": amount, "domain": domain, "padding": _EDGE}
    return scale, {"values": sorted(ticks), "format": ".6~g"}


def _described(title: str, changes: Sequence[Change], reference: str) -> str:
    told = counted_verdicts(one.verdict for one in changes)
    named = f"Differences of {title} from {reference}" if reference else title
    return f"{named}, with intervals, in {counted(len(changes), 'row')}: {told}."


HOW_TO_READ = (
    "Thin lines are 95 % intervals, thick ones 90 %; the band is the margin."
    f" {signs_in_words(_VERDICTS)}."
    " Equivalent: the thick line lies within the band. All verdicts are adjusted for their number,"
    " so that one may be undecided whose line alone would decide. Where the steps of an axis grow"
    " tenfold, that axis is linear within the margin and logarithmic outside it."
)
