"""The checks of a gate: what was found with its interval beside what is allowed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart, Charts
from qbench.core.units import counted
from qbench.report.charts.axes import cell_axis, quantity, rounded, row_height, tooltip
from qbench.report.charts.verdicts import (
    ALIKE,
    BETTER,
    OPEN,
    WORSE,
    counted_verdicts,
    signs_in_words,
    verdict_channels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.gate.gate import Check, GateOutcome
    from qbench.core.page import Part

_VERDICTS = {"holds": ALIKE, "improved": BETTER, "broken": WORSE, "inconclusive": OPEN}
_UPWARDS = ("max_increase", "max")
"""Kinds of margins that what is found may not be above; the others are limits from below."""
_EDGE = 8
"""Pixels between the outermost mark and the edge."""
_Panel = tuple[str, str, bool]
"""Title, kind of margin, and whether it is relative."""


def gate_charts(outcome: GateOutcome) -> list[Part]:
    """A picture for each metric of each item and what it is counted from; none if none is found."""
    panels: dict[_Panel, list[dict[str, Any]]] = {}
    for check in outcome.checks:
        row = _row(check)
        if row is not None and check.item is not None:
            since = check.rule.counted_from
            title = f"{check.metric}, {check.item.slug}" + (
                f" against the {since}" if since else ""
            )
            panels.setdefault((title, check.margin.kind, check.margin.relative), []).append(row)
    level = f"{100 * (1 - 2 * outcome.sampling.alpha):g} %"
    charts = tuple(_chart(panel, rows, level) for panel, rows in panels.items())
    return [Charts(charts, _how_to_read(level))] if charts else []


def _row(check: Check) -> dict[str, Any] | None:
    """None where no interval is known, or it has no end."""
    verdict, margin = check.verdict, check.margin
    found = verdict.difference
    if found is None or found.estimate is None or check.cell is None:
        return None
    value = found.shown(found.estimate.value)
    if verdict.low is None or verdict.high is None:
        return None
    if not all(map(math.isfinite, (value, verdict.low, verdict.high))):
        return None
    factor = 100 if margin.relative else 1
    allowed = -margin.amount if margin.kind == "max_drop" else margin.amount
    return {
        "cell": check.cell.label,
        "value": rounded(factor * value),
        "low": rounded(factor * verdict.low),
        "high": rounded(factor * verdict.high),
        "allowed": rounded(factor * allowed),
        "verdict": verdict.name,
    }


def _chart(panel: _Panel, rows: Sequence[dict[str, Any]], level: str) -> Chart:
    about, kind, relative = panel
    of_change = kind in {"max_increase", "max_drop"}
    title = ("change (%)" if relative else "change") if of_change else "value"
    allowed = "at most" if kind in _UPWARDS else "at least"
    x = quantity("value", f"{title}, {allowed} as marked", scale={"padding": _EDGE, "zero": False})
    colour, shape = verdict_channels(_VERDICTS)
    told = {
        "cell": "cell",
        "value": "found",
        "low": f"{level} from",
        "high": f"{level} to",
        "allowed": allowed,
        "verdict": "verdict",
    }
    spec = {
        "data": {"values": list(rows)},
        "height": row_height(len({row["cell"] for row in rows})),
        "encoding": {"y": cell_axis(), "tooltip": tooltip(told)},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": x, "color": colour, "shape": shape},
            },
            {
                "mark": {"type": "tick", "thickness": 3},
                "encoding": {"x": {**x, "field": "allowed"}},
            },
        ],
    }
    verdicts = counted_verdicts(row["verdict"] for row in rows)
    description = (
        f"What was found of {about} with intervals beside what is allowed, in"
        f" {counted(len(rows), 'cell')}: {verdicts}."
    )
    return Chart(about, description, spec)


def _how_to_read(level: str) -> str:
    return (
        f"Lines are {level} intervals, the upright bar is what is allowed."
        f" {signs_in_words(_VERDICTS)}. A rule holds where the whole line lies on the allowed side."
    )
