"""Every difference from the reference in one table: how large, and whether it is real.

The marks are those of `qbench.compare.marks`, adjusted together over the whole table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.comparable import Gap
from qbench.compare.compare import ItemName
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import describe_point, items, text_titles
from qbench.compare.marks import default_allowance, direction, mark_all, one_change
from qbench.compare.series_estimates import WHAT_INTERVALS_ARE_ABOUT
from qbench.compare.verdicts import amount_text
from qbench.core.page import Column, Figure, Row, Table
from qbench.report.figures import NOT_MEASURED

if TYPE_CHECKING:
    from qbench.compare.differences import Difference
    from qbench.compare.marks import Allowance, Mark
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Metric, Record

_HEADLINES = {
    "footprint": ("memory.static",),
    "memory": ("memory.peak", "memory.peak.inference"),
    "latency": ("latency.prefill", "latency.decode"),
    "quality": ("perplexity", "kl.mean", "top1_agreement"),
    "completion": ("completion.loss",),
}
"""Metrics that a person decides by; of tasks and generations all scores are shown."""
_SCORED = ("tasks", "generation")


class _Line(NamedTuple):
    title: str
    item: ItemName
    metric: Metric
    allowance: Allowance


def difference_table(records: TableRecords) -> Table | None:
    """A row for each metric, a column for each cell; None where there is nothing to compare."""
    reference = records.reference
    cells = [cell for cell in records.cells if not cell.reference]
    if reference is None or not cells:
        return None
    lines = _lines(records, reference)
    cases = [(line, cell) for line in lines for cell in cells if cell.of(*line.item)]
    found = [
        one_change(
            cell.of(*line.item),
            reference.of(*line.item),
            line.metric.name,
            Sampling(),
            same_run=True,
        )
        for line, cell in cases
    ]
    marks = mark_all(
        [(one, line.allowance) for one, (line, _) in zip(found, cases, strict=True)],
        alpha=Sampling().alpha,
    )
    texts = {
        (line.title, cell.label): _figure(line, difference, mark)
        for (line, cell), difference, mark in zip(cases, found, marks, strict=True)
    }
    columns = (
        *(Column(cell.label, cell.label, "estimate") for cell in cells),
        Column("margin", "equivalent within", "text"),
    )
    nothing = Figure(word=NOT_MEASURED, reason="not measured")
    rows = [
        Row(
            line.title,
            reference=False,
            figures=(
                *(texts.get((line.title, cell.label), nothing) for cell in cells),
                Figure(word=f"±{_amount(line.allowance.amount, line, signed=False)}"),
            ),
        )
        for line in lines
    ]
    title = f"Differences from {reference.label}: real, equivalent or undecided"
    return Table(title, "metric", columns, tuple(rows)) if rows else None


def how_decided() -> str:
    """The method, for below the table."""
    share = 100 * Sampling().alpha
    return (
        "Better or worse: the difference is not chance (two-sided). Equivalent: the whole"
        f" {100 - 2 * share:g} % interval lies inside the margin of the last column. Undecided:"
        " neither is shown. Right and wrong answers by exact limits (McNemar's test at 0), windows"
        " by paired bootstrap in blocks of neighbours, other items by paired bootstrap, times by"
        " Welch's t over processes, bytes exactly. Intervals are about"
        f" {WHAT_INTERVALS_ARE_ABOUT}. Claims of each kind are adjusted by Holm over the whole"
        f" table: that any of them is false has a chance of at most {share:g} %."
    )


def _lines(records: TableRecords, reference: CellRecords) -> list[_Line]:
    lines = []
    for measurement in (*_HEADLINES, *_SCORED):
        found = items(records, measurement)
        titles = text_titles(found) if measurement == "quality" else {}
        for slug in found:
            good = [one for one in reference.of(measurement, slug) if one.status == "ok"]
            if not good:
                continue
            for metric in _metrics(good[0]):
                where = titles.get(slug) or describe_point(good[0])
                title = metric.name if measurement == "footprint" else f"{metric.name}, {where}"
                allowance = default_allowance(metric, measurement)
                lines.append(_Line(title, ItemName(measurement, slug), metric, allowance))
    return lines


def _metrics(record: Record) -> list[Metric]:
    wanted = _HEADLINES.get(record.item.measurement)
    return [
        metric
        for metric in record.metrics
        if metric.value is not None
        and (metric.name in wanted if wanted else metric.better != "neither")
    ]


def _figure(line: _Line, difference: Difference | Gap, mark: Mark) -> Figure:
    if isinstance(difference, Gap):
        return Figure(word=NOT_MEASURED, reason=difference.reason)
    if difference.estimate is None:
        return Figure(word="undecided", reason=difference.reason)
    value = difference.shown(difference.estimate.value)
    verdict = direction(difference, mark, line.metric.better) or mark.finding
    word = "equal" if difference.equal else f"{_amount(value, line, signed=True)} {verdict}"
    return Figure(value, word, low=mark.low, high=mark.high)


def _amount(value: float, line: _Line, *, signed: bool) -> str:
    return amount_text(value, relative=line.allowance.relative, signed=signed)
