"""Every difference from the reference in one table: how large, and whether it is real.

The marks are those of `qbench.compare.marks`, adjusted together over the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.comparable import Gap
from qbench.compare.compare import ItemName
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.flips import SCORED
from qbench.compare.items import describe_point, items, text_titles
from qbench.compare.marks import (
    default_allowance,
    known_change,
    mark_all,
    one_change,
    verdict_of,
)
from qbench.compare.quantiles import keeps_quantile
from qbench.compare.series_estimates import WHAT_INTERVALS_ARE_ABOUT, with_what_is_together
from qbench.compare.served import SERVED, stored_wider
from qbench.compare.speed import LEGEND, why_not_served
from qbench.compare.verdicts import amount_text
from qbench.core.page import Column, Figure, Row, Table
from qbench.report.chat import CHAT, chat_titles
from qbench.report.figures import NOT_MEASURED, interval_detail

if TYPE_CHECKING:
    from qbench.compare.differences import Difference
    from qbench.compare.marks import Allowance, Mark
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Metric, Record

_HEADLINES = {
    "footprint": ("memory.static",),
    "memory": ("memory.peak", "memory.peak.inference", "memory.kv_cache"),
    "latency": ("latency.prefill", "latency.decode"),
    "cold_start": ("cold_start.first_token",),
    "serving": (
        "serving.ttft",
        "serving.itl",
        "serving.output_throughput",
        "serving.errors",
        "serving.memory.peak",
    ),
    "quality": ("perplexity", "kl.mean", "top1_agreement"),
    "decoded": ("decoded.perplexity", "decoded.kl.mean", "decoded.top1_agreement"),
    "chat": ("chat.perplexity", "chat.kl.mean", "chat.top1_agreement", "chat.same_text"),
    "completion": ("completion.loss",),
}
"""Metrics that a person decides by; of tasks and generations all scores are shown."""
_QUANTILES = ("window_perplexity.p90", "kl.p99", "decoded.kl.p99", "chat.kl.p99")
"""The same of records that keep what quantiles have their intervals from."""
_ON_TEXTS = ("quality", "decoded")


class Line(NamedTuple):
    """A metric of one item, with the margin within which two of its values are the same."""

    title: str
    item: ItemName
    metric: Metric
    allowance: Allowance


@dataclass(frozen=True)
class Compared:
    """A metric of one cell beside the reference's, with what is said of their difference."""

    line: Line
    cell: str
    """The label of its row."""
    found: Difference | Gap
    mark: Mark
    unlike_served: str | None = None
    """Why a time is not that of its format as it is served."""

    @property
    def value(self) -> float | None:
        """The difference as it is shown; None where its chance is not known."""
        return known_change(self.found)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `changed`, `equivalent`, `equal`, `undecided`, or why there is none.

        As `Mark.finding` for what was not compared.
        """
        return verdict_of(self.found, self.mark, self.line.metric.better)


@dataclass(frozen=True)
class Differences:
    """All differences of one table from its reference, judged together."""

    reference: str
    cells: tuple[str, ...]
    lines: tuple[Line, ...]
    found: tuple[Compared, ...]
    """By line, then by cell; none for a cell that has no record of a line's item."""


def differences_of(records: TableRecords) -> Differences | None:
    """None where there is nothing to compare."""
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
    compared = (
        Compared(
            line,
            cell.label,
            difference,
            mark,
            why_not_served(cell.of(*line.item), line.metric.name),
        )
        for (line, cell), difference, mark in zip(cases, found, marks, strict=True)
    )
    labels = tuple(cell.label for cell in cells)
    return Differences(reference.label, labels, tuple(lines), tuple(compared)) if lines else None


def difference_table(records: TableRecords) -> Table | None:
    """A row for each metric, a column for each cell; None where there is nothing to compare."""
    differences = differences_of(records)
    return None if differences is None else table_of(differences)


def table_of(differences: Differences) -> Table:
    """The differences as a table: a row for each metric, a column for each cell."""
    texts = {(one.line.title, one.cell): _figure(one) for one in differences.found}
    columns = (
        *(Column(cell, cell, "estimate") for cell in differences.cells),
        Column("margin", "equivalent within", "text"),
    )
    nothing = Figure(word=NOT_MEASURED, reason="not measured")
    rows = [
        Row(
            line.title,
            reference=False,
            figures=(
                *(texts.get((line.title, cell), nothing) for cell in differences.cells),
                Figure(word=f"±{_amount(line.allowance.amount, line, signed=False)}"),
            ),
        )
        for line in differences.lines
    ]
    title = f"Differences from {differences.reference}: real, equivalent or undecided"
    return Table(title, "metric", columns, tuple(rows))


def how_decided(differences: Differences) -> str:
    """The method, for below the table."""
    share = 100 * Sampling().alpha
    units = {one.found.unit for one in differences.found if not isinstance(one.found, Gap)}
    told = (
        "Better or worse: the difference is not chance (two-sided). Equivalent: the whole"
        f" {100 - 2 * share:g} % interval lies inside the margin of the last column. Undecided:"
        " neither is shown. Right and wrong answers by exact limits (McNemar's test at 0), windows"
        " by paired bootstrap in blocks of neighbours, other items by paired bootstrap, times by"
        " Welch's t over processes, bytes exactly. Intervals are about"
        f" {WHAT_INTERVALS_ARE_ABOUT}. Claims of each kind are adjusted by Holm over the whole"
        f" table: that any of them is false has a chance of at most {share:g} %."
    )
    return with_what_is_together(told, units)


def _lines(records: TableRecords, reference: CellRecords) -> list[Line]:
    lines = []
    wider = stored_wider(records.cells)
    for measurement in (*_HEADLINES, *SCORED):
        found = items(records, measurement)
        titles = text_titles(found) if measurement in _ON_TEXTS else {}
        titles = chat_titles(records) if measurement == CHAT else titles
        for slug in found:
            good = [one for one in reference.of(measurement, slug) if one.status == "ok"]
            if not good:
                continue
            for metric in _metrics(good[0], wider=wider):
                where = titles.get(slug) or describe_point(good[0])
                title = metric.name if measurement == "footprint" else f"{metric.name}, {where}"
                allowance = default_allowance(metric, measurement)
                lines.append(Line(title, ItemName(measurement, slug), metric, allowance))
    return lines


def _metrics(record: Record, *, wider: bool) -> list[Metric]:
    """What is shown of a record; `wider` where some cell holds codes in more than their width."""
    wanted = _HEADLINES.get(record.item.measurement)
    if wanted and wider:
        wanted = (*wanted, *(SERVED[name] for name in wanted if name in SERVED))
    if wanted:
        wanted = (*wanted, *(name for name in _QUANTILES if keeps_quantile(record, name)))
    return [
        metric
        for metric in record.metrics
        if metric.value is not None
        and (metric.name in wanted if wanted else metric.better != "neither")
    ]


def _figure(one: Compared) -> Figure:
    if isinstance(one.found, Gap):
        return Figure(word=NOT_MEASURED, reason=one.found.reason)
    value, margin = one.value, one.line.allowance.amount
    if value is None:
        told = one.found.reason
        return Figure(word="undecided", reason=told, verdict=one.verdict, margin=margin)
    word = "equal" if one.found.equal else f"{_amount(value, one.line, signed=True)} {one.verdict}"
    low, high = one.mark.low, one.mark.high
    served = one.unlike_served
    told = interval_detail(low, high, relative=one.line.allowance.relative)
    if served:
        word = f"{word} ≠"
        told = "; ".join(filter(None, [told, f"{LEGEND}: {served}"]))
    verdict = one.verdict
    return Figure(
        value,
        word,
        unlike_served=served,
        low=low,
        high=high,
        detail=told,
        verdict=verdict,
        margin=margin,
    )


def _amount(value: float, line: Line, *, signed: bool) -> str:
    return amount_text(value, relative=line.allowance.relative, signed=signed)
