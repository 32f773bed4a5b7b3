"""How near each cell came to the limits of the machine, as its table has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import cell_axis, quantity, rounded, row_height, tooltip

if TYPE_CHECKING:
    from qbench.core.page import Table

_SHARES = {
    "latency.decode.read_share": ("decode, of the read bandwidth", "circle"),
    "latency.decode.floor_share": ("decode, of the copy bandwidth", "diamond"),
    "latency.prefill.matrix_share": ("prefill, of the matrix rate", "square"),
}


def roofline_chart(table: Table) -> Chart | None:
    """The shares of one point of the grid; None where none is known."""
    rows: list[dict[str, Any]] = [
        {"cell": row.label, "limit": name, "value": rounded(100 * figure.value)}
        for key, (name, _) in _SHARES.items()
        for row, figure in zip(table.rows, table.column(key), strict=False)
        if figure.value is not None
    ]
    if not rows:
        return None
    places = [row.label for row in table.rows]
    rows.sort(key=lambda row: places.index(row["cell"]))
    told = {row["limit"] for row in rows}
    shown = {name: shape for name, shape in _SHARES.values() if name in told}
    limit = {
        "field": "limit",
        "type": "nominal",
        "scale": {"domain": list(shown)},
        "legend": {"title": None},
    }
    cells = len({row["cell"] for row in rows})
    spec = {
        "data": {"values": rows},
        "height": row_height(cells),
        "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
        "encoding": {
            "y": cell_axis(),
            "x": quantity("value", "reached of what the machine can do (%)"),
            "color": limit,
            "shape": {**limit, "scale": {"domain": list(shown), "range": list(shown.values())}},
            "tooltip": tooltip({"cell": "cell", "limit": "of", "value": "reached (%)"}),
        },
    }
    return Chart(
        table.title.partition(": ")[2] or table.title,
        f"Shares of the machine's measured limits that decode and prefill of"
        f" {counted(cells, 'cell')} reached.",
        spec,
    )
