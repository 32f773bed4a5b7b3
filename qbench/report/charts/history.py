"""Lines over the history: how far each metric is from its first point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart, Charts
from qbench.core.units import counted
from qbench.report.charts.axes import quantity, rounded, tooltip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.history.history import JudgedLine
    from qbench.compare.history.lines import Interval
    from qbench.compare.history.points import Place
    from qbench.core.page import Part

_COLOURS = 10
"""Lines that the page has colours for; of more their dashes differ too."""
_CAPTION = (
    "Each line is a cell, counted from its first point since it began anew. A triangle marks a"
    " change that is told: pointing up where the value rose, down where it fell. A point tells its"
    " interval, which is without what differs from run to run."
)


def history_charts(lines: Sequence[JudgedLine]) -> list[Part]:
    """A picture for each metric and item of one device; none where no line of it ever differed."""
    models = {one.line.name.model for one in lines}
    groups: dict[tuple[str, str, str, str], list[JudgedLine]] = {}
    for one in lines:
        name = one.line.name
        key = name.model, name.measurement, one.line.metric.name, name.item
        groups.setdefault(key, []).append(one)
    charts = tuple(
        _chart(f"{model}: " if len(models) > 1 else "", measurement, metric, item, group)
        for (model, measurement, metric, item), group in groups.items()
        if any(len(set(one.line.values)) > 1 for one in group)
    )
    return [Charts(charts, _CAPTION)] if charts else []


def _chart(
    model: str, measurement: str, metric: str, item: str, group: Sequence[JudgedLine]
) -> Chart:
    relative = all(one.line.is_relative for one in group)
    rows = [row for one in group for row in _rows(one, relative=relative)]
    unit = group[0].line.metric.unit
    axis = "change (%)" if relative else "change" if unit == "1" else f"change ({unit})"
    cell = {"field": "cell", "type": "nominal", "sort": None, "legend": {"title": None}}
    fields = {
        "cell": "cell",
        "measured": "measurement",
        "subject": "commit",
        "value": f"value ({unit})" if unit != "1" else "value",
        "interval": "95 % interval, as far as one run tells",
        "change": axis,
        "said": "told",
    }
    spec: dict[str, Any] = {
        "data": {"values": rows},
        "height": 220,
        "encoding": {
            "x": {
                "field": "measured",
                "type": "nominal",
                "sort": {"field": "number", "op": "min"},
                "axis": {"title": None, "labelAngle": -45, "labelOverlap": "greedy"},
            },
            "y": quantity("change", axis, scale={"zero": False}),
            "color": cell,
            "tooltip": tooltip(fields),
        },
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 1.5, "point": {"size": 18}},
                "encoding": {"detail": {"field": "stretch", "type": "nominal"}},
            },
        ],
    }
    if any(row["said"] for row in rows):
        spec["layer"].append(
            {
                "transform": [{"filter": "datum.said != ''"}],
                "mark": {"type": "point", "filled": True, "size": 130, "opacity": 1},
                "encoding": {
                    "shape": {
                        "field": "way",
                        "type": "nominal",
                        "legend": None,
                        "scale": {
                            "domain": ["up", "down"],
                            "range": ["triangle-up", "triangle-down"],
                        },
                    }
                },
            }
        )
    if len(group) > _COLOURS:
        spec["encoding"]["strokeDash"] = cell
    of = "" if metric.startswith(measurement) else f"{measurement}: "
    title = f"{model}{of}{metric}, {item}"
    return Chart(
        title,
        f"{title} of {counted(len(group), 'cell')} over the history, counted from the first point.",
        spec,
    )


def _rows(one: JudgedLine, *, relative: bool) -> list[dict[str, Any]]:
    line = one.line
    shifts = {shift.at: shift for shift in one.judged.shifts}
    rows = []
    for number, stretch in enumerate(line.stretches):
        first = line.values[stretch.start]
        for at in stretch:
            dot, shift = line.dots[at], shifts.get(at)
            rose = shift is not None and (shift.difference.plain or 0.0) > 0
            rows.append(
                {
                    "cell": line.name.cell,
                    "stretch": number,
                    "number": dot.place.number,
                    "measured": _label(dot.place),
                    "subject": dot.place.commit.subject if dot.place.commit else "",
                    "value": rounded(dot.value),
                    "change": _change(dot.value, first, relative=relative),
                    "interval": _told(dot.interval),
                    "said": shift.direction(line.metric.better) if shift else "",
                    "way": "up" if rose else "down",
                }
            )
    return rows


def _told(ends: Interval) -> str:
    if ends.low is None or ends.high is None:
        return "not known"
    return "exact" if ends.low == ends.high else f"{ends.low:.4g} to {ends.high:.4g}"


def _change(value: float, first: float, *, relative: bool) -> float | None:
    """As it is drawn; None of what is no number of usual size."""
    change = 100 * (value / first - 1) if relative else value - first
    return rounded(change) if math.isfinite(change) else None


def _label(place: Place) -> str:
    """Its number keeps two measurements of one commit apart."""
    return f"{place.number}: {place.label}"
