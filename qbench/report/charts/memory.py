"""Memory: static bytes by kind, and peaks, each beside what was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import (
    cell_axis,
    quantity,
    rounded,
    row_height,
    tooltip,
    unit_of,
    with_unit,
)
from qbench.report.figures import pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.selection import CellRecords
    from qbench.core.page import Table
    from qbench.core.units import Display

STATIC_KINDS = {
    "memory.static.linear": "linear",
    "memory.static.quantization_state": "quant. state",
    "memory.static.embeddings_and_head": "embeddings, head",
    "memory.static.norms": "norms",
    "memory.static.biases": "biases",
    "memory.static.buffers": "buffers",
    "memory.static.adapters": "adapters",
    "memory.static.other": "other",
}


def static_chart(cells: Iterable[CellRecords]) -> Chart | None:
    """Static bytes of each cell by kind; None where none was measured."""
    rows, predicted = [], []
    for cell in cells:
        found = cell.of("footprint")
        kinds = {kind: pool(found, kind).figure.value for kind in STATIC_KINDS}
        rows += [(cell.label, STATIC_KINDS[kind], value) for kind, value in kinds.items() if value]
        ahead = pool(found, "memory.static.predicted").figure.value
        if ahead is not None and any(kinds.values()):
            predicted.append((cell.label, ahead))
    order = tuple(STATIC_KINDS.values())
    return stacked("Static bytes by kind", "static bytes", rows, predicted, order)


def peak_charts(cells: Iterable[CellRecords], table: Table) -> list[Chart]:
    """A picture for each thing of the table of what was predicted and measured.

    Where the static bytes of the cell are known, they and what comes on top of them are apart.
    """
    static = {
        cell.label: pool(cell.of("footprint"), "memory.static").figure.value for cell in cells
    }
    peaks: dict[str, list[tuple[str, float, float]]] = {}
    for row in table.rows:
        found = dict(zip((one.key for one in table.columns), row.figures, strict=True))
        predicted, measured = found["predicted"].value, found["measured"].value
        if predicted is not None and measured is not None:
            rows = peaks.setdefault(found["what"].word or "", [])
            rows.append((row.label, predicted, measured))
    made = (
        stacked(
            f"Predicted and measured: {what}",
            "measured",
            [part for label, _, measured in rows for part in _split(label, measured, static)],
            [(label, predicted) for label, predicted, _ in rows],
        )
        for what, rows in peaks.items()
    )
    return [chart for chart in made if chart is not None]


def _split(
    label: str, peak: float, static: Mapping[str, float | None]
) -> list[tuple[str, str, float]]:
    kept = static.get(label)
    if kept is None or kept >= peak:
        return [(label, "all", peak)]
    return [(label, "static", kept), (label, "on top of it", peak - kept)]


def stacked(
    title: str,
    axis: str,
    parts: Sequence[tuple[str, str, float]],
    marks: Sequence[tuple[str, float]] = (),
    order: Sequence[str] = (),
    marked: str = "what was predicted",
    display: Display = "bytes",
) -> Chart | None:
    """Bars of bytes, or seconds: of each cell its kinds one behind the other, some with a mark.

    `parts` are cells, kinds and values; kinds are fixed words, in the given order or as they come.
    """
    if not parts:
        return None
    totals: dict[str, float] = {}
    for label, _, value in parts:
        totals[label] = totals.get(label, 0.0) + value
    places = dict(marks)
    unit, divisor = unit_of([*totals.values(), *places.values()], display)
    found = list(dict.fromkeys(kind for _, kind, _ in parts))
    kinds = [kind for kind in order if kind in found] if order else found
    rows = [
        {
            "cell": label,
            "kind": kind,
            "order": kinds.index(kind),
            "value": rounded(value / divisor),
            "total": rounded(totals[label] / divisor),
        }
        for label, kind, value in parts
    ]
    x = quantity("value", with_unit(axis, unit), stack="zero")
    bars: dict[str, Any] = {
        "mark": {"type": "bar"},
        "encoding": {
            "y": cell_axis(),
            "x": x,
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": tooltip(
                {"cell": "cell", "kind": "of", "value": with_unit(axis, unit), "total": "in all"}
            ),
        },
    }
    if len(kinds) > 1:
        bars["encoding"]["color"] = {
            "field": "kind",
            "type": "nominal",
            "sort": kinds,
            "legend": {"title": None},
        }
    mark = {
        "data": {
            "values": [
                {"cell": label, "mark": rounded(value / divisor)} for label, value in places.items()
            ]
        },
        "mark": {"type": "tick", "thickness": 2.5},
        "encoding": {
            "y": cell_axis(),
            "x": {"field": "mark", "type": "quantitative"},
            "tooltip": tooltip({"cell": "cell", "mark": marked}),
        },
    }
    spec = {
        "data": {"values": rows},
        "height": row_height(len(totals)),
        "layer": [bars, *([mark] if places else [])],
    }
    told = f", beside {marked}" if places else ""
    of_kinds = f", by {', '.join(kinds)}" if len(kinds) > 1 else ""
    description = f"{title} of {counted(len(totals), 'cell')}{of_kinds}{told}."
    return Chart(title, description, spec, f"The mark on each bar is {marked}." if places else "")
