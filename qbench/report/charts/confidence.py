"""KL by how sure the reference is: whether what a cell changes is what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import decades, quantity, rounded, tooltip
from qbench.report.confidence import kl_by_confidence, range_words

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords

_FEWEST = 2
_AXIS = "highest probability of the reference"
_CAPTION = (
    "Tokens are parted by the highest probability that the reference gives there: on the left it is"
    " unsure, and a change alters little; on the right it has decided. What is 0 or below has no"
    " place on a logarithmic axis and is not drawn."
)


def confidence_chart(
    records: TableRecords, slug: str, text: str, measurement: str = "quality"
) -> Chart | None:
    """A line a cell; None where no cell has two ranges that can be drawn."""
    found = {
        cell.label: ranges
        for cell in records.cells
        if not cell.reference and (ranges := kl_by_confidence(cell.of(measurement, slug)))
    }
    starts = sorted({start for ranges in found.values() for start in ranges})
    rows: list[dict[str, Any]] = [
        {
            "cell": label,
            "range": range_words(start, starts),
            "value": rounded(ranges[start][1]),
            "tokens": ranges[start][0],
        }
        for label, ranges in found.items()
        for start in starts
        if start in ranges and ranges[start][1] > 0
    ]
    if len({row["range"] for row in rows}) < _FEWEST:
        return None
    ticks = decades([row["value"] for row in rows])
    cells = {row["cell"] for row in rows}
    spec = {
        "data": {"values": rows},
        "height": 200,
        "mark": {"type": "line", "strokeWidth": 1.5, "point": {"size": 35}},
        "encoding": {
            "x": {
                "field": "range",
                "type": "ordinal",
                "sort": [range_words(start, starts) for start in starts],
                "axis": {"title": _AXIS, "labelAngle": -35},
            },
            "y": quantity(
                "value",
                "KL mean (nat), logarithmic",
                scale={"type": "log", "domain": [ticks[0], ticks[-1]]},
                axis={"values": ticks, "format": ".6~g"},
            ),
            "color": {
                "field": "cell",
                "type": "nominal",
                "sort": None,
                "legend": {"title": None},
            },
            "tooltip": tooltip(
                {"cell": "cell", "range": _AXIS, "value": "KL mean", "tokens": "tokens"}
            ),
        },
    }
    return Chart(
        f"KL by how sure the reference is: {text}",
        f"Mean divergence of {counted(len(cells), 'cell')} from the reference's predictions, by the"
        " highest probability that the reference gives.",
        spec,
        _CAPTION,
    )
