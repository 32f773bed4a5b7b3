"""Throughput against waiting: each cell and server a line over the loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.measures.serving.servers import SERVING
from qbench.report.charts.axes import quantity, rounded, tooltip, unit_of, with_unit
from qbench.report.figures import pool
from qbench.report.serving import lengths, load_order, point_of, server_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record
    from qbench.measures.serving.options import LoadPoint

WAITED = {
    "serving.itl": "time between tokens",
    "serving.ttft": "time to the first token",
}
"""What is drawn against the throughput, each in a picture of its own."""
CAPTION = (
    "Further right are more tokens a second of all requests together, further down is a shorter"
    " wait of each: the lower right is best. A line joins the loads of a cell and server, each"
    " named at its point: 8 is eight requests at once, 2/s two a second. Where a line rises and"
    " gains nothing to the right, the server has no more to give."
)
_HEIGHT = 260
_COLOURS = 10
"""Cells that the page has colours for."""


def serving_charts(records: TableRecords) -> list[Chart]:
    """A picture for each pair of lengths and each kind of waiting; none of a single load."""
    charts = []
    for title, points in _points(records).items():
        if len({point.load_slug for _, point in points}) > 1:
            drawn = (_chart(records, points, metric, title) for metric in WAITED)
            charts += [chart for chart in drawn if chart is not None]
    return charts


def _points(records: TableRecords) -> dict[str, list[tuple[Record, LoadPoint]]]:
    """A record of each item with its load, the smallest first, by the lengths in words."""
    taken = (record for cell in records.every for record in cell.of(SERVING))
    each = {record.item.slug: record for record in taken}
    found: dict[str, list[tuple[Record, LoadPoint]]] = {}
    for record in sorted(each.values(), key=load_order):
        if (point := point_of(record)) is not None:
            found.setdefault(lengths(point), []).append((record, point))
    return found


def _chart(
    records: TableRecords, points: list[tuple[Record, LoadPoint]], metric: str, title: str
) -> Chart | None:
    values = list(_values(records, points, metric))
    if not values:
        return None
    unit, divisor = unit_of((row["waited"] for row in values), "seconds")
    rows = [
        {**row, "waited": rounded(row["waited"] / divisor), "rate": rounded(row["rate"])}
        for row in values
    ]
    cells = len({row["cell"] for row in rows})
    return Chart(
        f"{WAITED[metric].capitalize()} against throughput, {title}",
        f"{counted(cells, 'cell')} over {counted(len(points), 'load')}: the median"
        f" {WAITED[metric]} and the generated tokens a second.",
        _spec(rows, with_unit(WAITED[metric], unit)),
        CAPTION,
    )


def _values(
    records: TableRecords, points: list[tuple[Record, LoadPoint]], metric: str
) -> Iterator[dict[str, Any]]:
    for cell in records.every:
        for order, (record, point) in enumerate(points):
            found = cell.of(SERVING, record.item.slug)
            waited = pool(found, metric).figure.value
            rate = pool(found, "serving.output_throughput").figure.value
            if waited is None or rate is None:
                continue
            yield {
                "cell": cell.label,
                "server": server_of(record),
                "load": str(point.concurrency) if point.rate is None else f"{point.rate:g}/s",
                "order": order,
                "waited": waited,
                "rate": rate,
            }


def _spec(rows: list[dict[str, Any]], waited: str) -> dict[str, Any]:
    told = {
        "cell": "cell",
        "server": "server",
        "load": "load",
        "rate": "tokens/s",
        "waited": waited,
    }
    encoding: dict[str, Any] = {
        "x": quantity("rate", "generated tokens a second", scale={"zero": True, "nice": True}),
        "y": quantity("waited", waited, scale={"zero": True, "nice": True}),
        "detail": {"field": "server", "type": "nominal"},
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": tooltip(told),
    }
    if len({row["cell"] for row in rows}) <= _COLOURS:
        encoding["color"] = _legend("cell")
    if len({row["server"] for row in rows}) > 1:
        encoding["strokeDash"] = _legend("server")
    load = {"text": {"field": "load", "type": "nominal"}}
    return {
        "data": {"values": rows},
        "height": _HEIGHT,
        "encoding": encoding,
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 2}},
            {"mark": {"type": "point", "filled": True, "size": 40}},
            {"mark": {"type": "text", "dy": -9, "fontSize": 11}, "encoding": load},
        ],
    }


def _legend(field: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "nominal",
        "sort": None,
        "legend": {"title": None, "symbolOpacity": 1},
    }
