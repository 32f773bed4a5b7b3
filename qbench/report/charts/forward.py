"""Each way that a forward runs beside the eager one, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.items import describe_way
from qbench.core.page import Chart, Charts
from qbench.core.units import counted
from qbench.report.charts.axes import cell_axis, quantity, rounded, row_height, tooltip
from qbench.report.forward import STEPS, ratio_to_eager, ways_of

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Part
    from qbench.report.forward import Ways

_SHAPES = {"decode": "circle", "prefill": "square"}
_GREY = "#888888"
"""Of the legend of shapes, seen on light and dark."""
_CAPTION = (
    "Left of the line a way is faster than the eager forward of the same cell. A bar is the 95 %"
    " interval over the processes, where there are enough of them."
)


def forward_charts(records: TableRecords) -> list[Part]:
    """A picture for each size that was measured in several ways."""
    drawn = [one for ways in ways_of(records) if (one := forward_chart(records, ways))]
    return [Charts(tuple(drawn), _CAPTION)] if drawn else []


def forward_chart(records: TableRecords, ways: Ways) -> Chart | None:
    """The times of one size of the grid as ratios; None where there is no eager forward."""
    rows: list[dict[str, Any]] = []
    for cell in records.cells:
        for slug, point in ways.points.items():
            for step in STEPS:
                figure = ratio_to_eager(cell, ways, slug, step)
                if slug == ways.eager or figure.value is None:
                    continue
                row = {
                    "cell": cell.label,
                    "way": describe_way(point),
                    "step": step,
                    "value": rounded(figure.value),
                }
                if figure.low is not None and figure.high is not None:
                    row |= {"low": rounded(figure.low), "high": rounded(figure.high)}
                rows.append(row)
    if not rows:
        return None
    cells = len({row["cell"] for row in rows})
    names = list(dict.fromkeys(row["way"] for row in rows))
    x = quantity("value", "time, by that of the eager forward", scale={"zero": False})
    places: dict[str, Any] = {
        "y": {**cell_axis(), "scale": {"paddingInner": 0.3}},
        "yOffset": {"field": "way", "type": "nominal", "sort": names},
        "color": {
            "field": "way",
            "type": "nominal",
            "scale": {"domain": names},
            "legend": {"title": None},
        },
    }
    told = {"cell": "cell", "way": "forward", "step": "step", "value": "by eager's"}
    intervals: dict[str, Any] = {
        "data": {"values": [row for row in rows if "low" in row]},
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {**places, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
    }
    points = {
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
        "encoding": {
            **places,
            "x": x,
            "shape": {
                "field": "step",
                "type": "nominal",
                "scale": {"domain": list(_SHAPES), "range": list(_SHAPES.values())},
                "legend": {"title": None, "symbolFillColor": _GREY, "symbolStrokeColor": _GREY},
            },
            "tooltip": tooltip(told),
        },
    }
    line = {
        "data": {"values": [{"at": 1}]},
        "mark": {"type": "rule", "strokeDash": [4, 4]},
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
    }
    step_height = max(row_height(cells)["step"], 12 * len(names) + 8)
    spec = {
        "data": {"values": rows},
        "height": {"step": step_height, "for": "position"},
        "layer": [line, *([intervals] if intervals["data"]["values"] else []), points],
    }
    return Chart(
        ways.title,
        f"Decode and prefill of {counted(cells, 'cell')} in {counted(len(names), 'way')} of running"
        " the forward, by the eager one's.",
        spec,
    )
