"""Bytes against divergence: mixes and uniform formats, those that none dominates joined."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.compare.frontier import KL
from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import decades, quantity, rounded, tooltip, unit_of, with_unit
from qbench.report.figures import with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.frontier import Frontier, Point

_HEIGHT = 300
_KINDS = ("mix", "one format")
_SHAPES = ("diamond", "circle")
_START, _END = 5, 13
"""Characters of a long name that are shown: its end tells it from others."""
_NEAR = 0.05
"""Share of the picture below which two names would lie on each other."""
_CAPTION = (
    "Further left is smaller, further down nearer to the reference. The line joins the cells that"
    " no other is at least as good as in both; these have their names beside them where there is"
    " room. Lines through a sign are 95 % intervals."
)


def frontier_chart(found: Frontier, slug: str, text: str) -> Chart | None:
    """None where no divergence has a place on a logarithmic axis."""
    points = [one for one in found.points if one.kl > 0]
    if not any(one.is_mix for one in points):
        return None
    unit, divisor = unit_of((one.bytes for one in points), "bytes")
    middle = (points[0].bytes + points[-1].bytes) / 2
    rows = [{**_row(found, one, slug, divisor), "right": one.bytes > middle} for one in points]
    _name(rows)
    ticks = decades([end for row in rows for end in (row["kl"], row.get("low", row["kl"]))])
    lowest = min(row.get("low", row["kl"]) for row in rows)
    highest = max(row.get("high", row["kl"]) for row in rows)
    scale = {"type": "log", "domain": [rounded(lowest / 1.3), rounded(highest * 1.3)]}
    axis = {"values": ticks, "format": ".6~g", "title": "KL (nat), logarithmic"}
    y = {"field": "kl", "type": "quantitative", "scale": scale, "axis": axis}
    x = quantity("size", with_unit("static bytes", unit), scale={"zero": False, "padding": 16})
    kind = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": list(_KINDS)},
        "legend": {"title": None},
    }
    joined: dict[str, Any] = {"transform": [{"filter": "datum.joined"}]}
    intervals = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": kind},
        }
    ]
    sides = sorted({row["right"] for row in rows if "name" in row})
    spec: dict[str, Any] = {
        "data": {"values": rows},
        "height": _HEIGHT,
        "encoding": {"x": x},
        "layer": [
            {
                **joined,
                "mark": {"type": "line", "opacity": 0.5, "stroke": "var(--ink)", "strokeWidth": 1},
                "encoding": {"y": y, "order": {"field": "size", "type": "quantitative"}},
            },
            *(intervals if any("low" in row for row in rows) else ()),
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {
                    "y": y,
                    "color": kind,
                    "shape": {**kind, "scale": {"domain": list(_KINDS), "range": list(_SHAPES)}},
                    "tooltip": tooltip(
                        {
                            "cell": "cell",
                            "size": with_unit("static", unit),
                            "kl": "KL",
                            "low": "95 % from",
                            "high": "95 % to",
                        }
                    ),
                },
            },
            *(_names(y, right=right) for right in sides),
        ],
    }
    return Chart(
        f"Bytes against KL: {text}",
        f"{counted(len(points), 'cell')}, {len(found.mixes)} of them mixes, by static bytes and"
        f" divergence from the reference; {sum(row['joined'] for row in rows)} are dominated by"
        " none.",
        spec,
        _CAPTION,
    )


def _names(y: dict[str, Any], *, right: bool) -> dict[str, Any]:
    """The names of what is joined: above and to the right of signs, to the left near that edge."""
    place: dict[str, Any] = {"align": "left", "dx": 8, "dy": -8}
    if right:
        place = {"align": "right", "dx": -8, "dy": 10}
    wanted = f"isValid(datum.name) && {'' if right else '!'}datum.right"
    return {
        "transform": [{"filter": wanted}],
        "mark": {
            "type": "text",
            "fontSize": 11,
            "fill": "var(--ink)",
            **place,
        },
        "encoding": {"y": y, "text": {"field": "name", "type": "nominal"}},
    }


def _name(rows: Sequence[dict[str, Any]]) -> None:
    """Names what is joined, but for what lies too near to what has a name already."""
    sizes = [row["size"] for row in rows]
    heights = [math.log(row["kl"]) for row in rows]
    width, height = (max(ends) - min(ends) or 1.0 for ends in (sizes, heights))
    named: list[tuple[float, float]] = []
    for row in rows:
        at = row["size"] / width, math.log(row["kl"]) / height
        if row["joined"] and not any(math.dist(at, other) < _NEAR for other in named):
            named.append(at)
            label = row["cell"]
            cut = len(label) > _START + _END + 1
            row["name"] = f"{label[:_START]}…{label[-_END:]}" if cut else label


def _row(found: Frontier, point: Point, slug: str, divisor: float) -> dict[str, Any]:
    figure = with_interval(point.cell.of("quality", slug), KL)
    row: dict[str, Any] = {
        "cell": point.cell.label,
        "kind": _KINDS[not point.is_mix],
        "size": rounded(point.bytes / divisor),
        "kl": rounded(point.kl),
        "joined": found.dominating(point) is None,
    }
    if figure.low is not None and figure.high is not None and 0 < figure.low < figure.high:
        row |= {"low": rounded(figure.low), "high": rounded(figure.high)}
    return row
