"""The pictures of what was measured of the untuned cells; their numbers are in the details."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import items, text_titles
from qbench.core.page import Heading, Words
from qbench.report.charts.confidence import confidence_chart
from qbench.report.charts.divergence import divergence_charts
from qbench.report.charts.latency import latency_chart
from qbench.report.charts.memory import peak_charts, static_chart
from qbench.report.charts.needle import needle_charts
from qbench.report.charts.over_length import length_charts
from qbench.report.charts.roofline import roofline_chart
from qbench.report.charts.serving import serving_charts
from qbench.report.charts.tasks import task_charts
from qbench.report.charts.together import group_of
from qbench.report.charts.weight_error import weight_error_charts
from qbench.report.cold_start import TITLE as COLD_START
from qbench.report.cold_start import cold_start_charts
from qbench.report.decoded import DECODED
from qbench.report.latency import TIMED
from qbench.report.needle import TITLE as NEEDLES
from qbench.report.needle import needle_grids
from qbench.report.over_length import TITLE as OVER_LENGTH
from qbench.report.over_length import over_length
from qbench.report.predicted import predicted_table
from qbench.report.reached import roofline
from qbench.report.roofline import TITLE as ROOFLINE
from qbench.report.serving import TITLE as SERVING
from qbench.report.tasks import task_tables

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Part


def picture_parts(records: TableRecords) -> list[Part]:
    """A group for each thing that was measured, in the order in which a reader decides."""
    texts = text_titles(items(records, "quality"))
    decoded = text_titles(items(records, DECODED))
    points = items(records, "latency").values()
    return [
        *group_of(
            "Divergence from the reference",
            (
                chart
                for slug, text in texts.items()
                for chart in (
                    *divergence_charts(records, slug, text),
                    confidence_chart(records, slug, text),
                )
            ),
        ),
        *group_of(
            "Divergence of decoded positions from the reference",
            (
                chart
                for slug, text in decoded.items()
                for chart in (
                    *divergence_charts(records, slug, text, DECODED),
                    confidence_chart(records, slug, text, DECODED),
                )
            ),
        ),
        *group_of(NEEDLES, needle_charts(needle_grids(records))),
        *group_of(
            "Tasks", (chart for table in task_tables(records) for chart in task_charts(table))
        ),
        *group_of(
            "Latency of each process",
            (latency_chart(records, point, kind) for point in points for kind in TIMED),
        ),
        *group_of(OVER_LENGTH, length_charts(over_length(records))),
        *group_of(COLD_START, cold_start_charts(records)),
        *group_of(SERVING, serving_charts(records)),
        *_roofline(records),
        *group_of(
            "Memory by kind, and as it was predicted",
            (static_chart(records.cells), *peak_charts(records.every, predicted_table(records))),
        ),
        *weight_error_charts(records),
    ]


def _roofline(records: TableRecords) -> list[Part]:
    """The picture, or why there is none where limits were measured."""
    found = roofline(records)
    drawn: list[Part] = [*group_of(ROOFLINE, [roofline_chart(found)])]
    if drawn or not found.lacking:
        return drawn
    return [Heading(ROOFLINE, 3), Words(f"There is no picture: {'; '.join(found.lacking)}.")]
