"""The linear layers from one row to many: time over that of bf16, and time with its floor."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import BF16
from qbench.core.page import Chart, Charts
from qbench.core.units import counted
from qbench.predict.bf16 import is_bf16
from qbench.report.charts.axes import quantity, rounded, tooltip, unit_of, with_unit
from qbench.report.crossovers import RATIOS, crossover_of, values_by_rows
from qbench.report.kernels import BF16_TIME, FLOOR, TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part

_ROWS = "rows of the inputs"
_GREY = "#888888"
_COLOURS = 10
"""Cells that the page has colours for; of more the lines differ too."""
_HEIGHT = 260
_ROOM = 1.15
_CAPTION = (
    "First: above the dashed line a format is slower than bf16; a diamond is where it becomes so"
    " for good. Second: the time itself; grey is bf16, and the dashed line of each colour is the"
    " floor of what has to be read and computed."
)


def kernel_charts(records: TableRecords) -> list[Part]:
    """Two pictures side by side; none where nothing was timed."""
    cells = [cell for cell in records.cells if values_by_rows(cell, TIME)]
    drawn = [chart for chart in (_ratios(cells), _times(cells)) if chart is not None]
    return [Charts(tuple(drawn), _CAPTION)] if drawn else []


def _ratios(cells: Sequence[CellRecords]) -> Chart | None:
    rows = _points(cells, RATIOS[BF16], 1.0)
    if not rows:
        return None
    ticks = _ticks(rows)
    x, y = _x(ticks), _y("time over that of bf16", [1.0, *(row["value"] for row in rows)])
    marks = [
        {"cell": cell.label, "rows": rounded(found.about), "value": 1}
        for cell in cells
        if not is_bf16(cell.records[0].cell.precision)
        and (found := crossover_of(cell)) is not None
        and found.about is not None
    ]
    told = {"cell": "cell", "rows": "rows", "value": "of bf16's time"}
    even = {
        "data": {"values": [{"value": 1}]},
        "mark": {"type": "rule", "strokeDash": [4, 4], "color": _GREY, "strokeWidth": 1.5},
        "encoding": {"y": y},
    }
    crossed = {
        "data": {"values": marks},
        "mark": {"type": "point", "shape": "diamond", "filled": True, "size": 130, "opacity": 1},
        "encoding": {
            "x": x,
            "y": y,
            "color": _cell(),
            "tooltip": tooltip({"cell": "cell", "rows": "slower than bf16 from about"}),
        },
    }
    spec = {
        "data": {"values": rows},
        "height": _HEIGHT,
        "layer": [even, _lines(cells, x, y, told), *([crossed] if marks else [])],
    }
    return Chart(
        "Time over that of bf16",
        f"Time of all linear layers over that of bf16, of {counted(len(cells), 'cell')} from"
        f" {ticks[0]} to {ticks[-1]} rows; of {len(marks)} of them it rises above that for good"
        " in between.",
        spec,
    )


def _times(cells: Sequence[CellRecords]) -> Chart | None:
    beside = _beside(cells)
    every = [value for cell in cells for value in values_by_rows(cell, TIME).values()]
    if not every:
        return None
    unit, divisor = unit_of([*every, *beside.values()], "seconds")
    title = with_unit("all linear layers once", unit)
    rows = _points(cells, TIME, divisor)
    floors = _points(cells, FLOOR, divisor)
    ticks = _ticks([*rows, *floors])
    drawn = [row["value"] for row in (*rows, *floors)]
    x, y = _x(ticks), _y(title, [*drawn, *(value / divisor for value in beside.values())])
    told = {"cell": "cell", "rows": "rows", "value": title}
    floor = {
        "data": {"values": floors},
        "mark": {"type": "line", "strokeDash": [3, 3], "strokeWidth": 1.5, "opacity": 0.8},
        "encoding": {
            "x": x,
            "y": y,
            "color": _cell(),
            "tooltip": tooltip({**told, "value": f"floor, {title}"}),
        },
    }
    plain = {
        "data": {
            "values": [
                {"rows": at, "value": rounded(value / divisor)} for at, value in beside.items()
            ]
        },
        "mark": {"type": "line", "color": _GREY, "strokeWidth": 3, "opacity": 0.6},
        "encoding": {"x": x, "y": y, "tooltip": tooltip({"rows": "rows", "value": BF16})},
    }
    layers = [*([plain] if beside else []), _lines(cells, x, y, told)]
    spec = {
        "data": {"values": rows},
        "height": _HEIGHT,
        "layer": [*layers, *([floor] if floors else [])],
    }
    return Chart(
        "Time of all linear layers",
        f"Time of all linear layers of {counted(len(cells), 'cell')} from {ticks[0]} to"
        f" {ticks[-1]} rows, beside bf16 and the floor of each.",
        spec,
    )


def _points(cells: Iterable[CellRecords], metric: str, divisor: float) -> list[dict[str, Any]]:
    return [
        {"cell": cell.label, "rows": rows, "value": rounded(value / divisor)}
        for cell in cells
        for rows, value in values_by_rows(cell, metric).items()
    ]


def _beside(cells: Iterable[CellRecords]) -> dict[int, float]:
    """bf16's times by rows: the median of those beside each cell."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        for rows, value in values_by_rows(cell, BF16_TIME).items():
            found.setdefault(rows, []).append(value)
    return {rows: median(values) for rows, values in sorted(found.items())}


def _ticks(points: Iterable[Mapping[str, Any]]) -> list[int]:
    return sorted({int(point["rows"]) for point in points})


def _x(ticks: Sequence[int]) -> dict[str, Any]:
    scale = {"type": "log", "base": 2, "domain": [ticks[0], ticks[-1]], "nice": False}
    return quantity("rows", _ROWS, scale=scale, axis={"values": list(ticks), "format": "~d"})


def _y(title: str, values: Sequence[float]) -> dict[str, Any]:
    """An axis with some room around the values, which need not reach the next power of ten."""
    domain = [rounded(min(values) / _ROOM), rounded(max(values) * _ROOM)]
    scale = {"type": "log", "domain": domain, "nice": False}
    return quantity("value", title, scale=scale, axis={"format": "~g"})


def _cell() -> dict[str, Any]:
    return {"field": "cell", "type": "nominal", "sort": None, "legend": {"title": None}}


def _lines(
    cells: Sequence[CellRecords], x: dict[str, Any], y: dict[str, Any], told: Mapping[str, str]
) -> dict[str, Any]:
    encoding: dict[str, Any] = {"x": x, "y": y, "color": _cell(), "tooltip": tooltip(told)}
    if len(cells) > _COLOURS:
        encoding["strokeDash"] = _cell()
    return {
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 35}},
        "encoding": encoding,
    }
