"""Where greedy text parts from the reference's: the share of answers that have not, by tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import quantity, rounded, tooltip
from qbench.report.charts.confidence import confidence_chart
from qbench.report.chat import CHAT, chat_titles, longest_answer, parted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.compare.selection import TableRecords

_CAPTION = (
    "Each line falls where answers part: where the cell puts another token first than the reference"
    " wrote. An answer that ends without parting counts up to its end (Kaplan and Meier)."
)
_AXIS = "equal tokens of the answer"


def chat_charts(records: TableRecords) -> Iterator[Chart]:
    """Of each set of prompts, where greedy text parts, and KL by how sure the reference is."""
    for slug, title in chat_titles(records).items():
        for chart in (
            survival_chart(records, slug, title),
            confidence_chart(records, slug, title, CHAT),
        ):
            if chart is not None:
                yield chart


def survival_chart(records: TableRecords, slug: str, title: str) -> Chart | None:
    """A falling line a cell; None where no answer parts, or none is known to be greedy text."""
    known = {
        cell.label: found
        for cell in records.cells
        if (found := parted(cell, slug)) is not None and (found or not cell.reference)
    }
    if not any(known.values()):
        return None
    end = longest_answer(records, slug)
    rows: list[dict[str, Any]] = []
    for label, found in known.items():
        points = [(0, 1.0), *((at, share) for at, share in found)]
        points.append((end, points[-1][1]))
        rows += [{"cell": label, "tokens": at, "share": rounded(100 * one)} for at, one in points]
    spec = {
        "data": {"values": rows},
        "height": 200,
        "mark": {"type": "line", "strokeWidth": 1.5, "interpolate": "step-after"},
        "encoding": {
            "x": quantity("tokens", _AXIS, scale={"domain": [0, end], "nice": False}),
            "y": quantity("share", "answers that have not parted (%)", scale={"domain": [0, 100]}),
            "color": {
                "field": "cell",
                "type": "nominal",
                "sort": None,
                "legend": {"title": None},
            },
            "order": {"field": "tokens"},
            "tooltip": tooltip({"cell": "cell", "tokens": _AXIS, "share": "not parted (%)"}),
        },
    }
    return Chart(
        f"Where greedy text parts: {title}",
        f"The share of answers whose greedy text is still the reference's, by tokens, for"
        f" {counted(len(known), 'cell')}.",
        spec,
        _CAPTION,
    )
