"""One metric of one cell pooled over its processes, and the best figures of a table."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from qbench.compare.comparable import Gap
from qbench.compare.differences import level
from qbench.compare.estimates.binary import Proportion
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import one_change
from qbench.compare.speed import LEGEND, why_not_served
from qbench.compare.verdicts import interval_text
from qbench.core.page import Figure
from qbench.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.selection import CellRecords
    from qbench.core.page import Table
    from qbench.core.record import Metric, Record

NOT_MEASURED = "-"
"""Stands where there is no record."""
NO_VALUE = "n/a"
"""Stands where a record says why it has no value."""
REFERENCE_WORD = "ref"
"""Stands where the reference would be compared with itself."""


@dataclass(frozen=True)
class Pooled:
    """One metric of one item of a cell over all its processes."""

    figure: Figure
    """The median of the processes' values."""
    lowest: float | None
    highest: float | None
    succeeded: int
    """Processes that gave a value."""
    taken: int
    """Processes that left a record."""


def finite_value(metric: Metric | None) -> float | None:
    """The metric's value; None where it is missing, infinite or not a number."""
    value = metric.value if metric else None
    return value if value is not None and math.isfinite(value) else None


def pool(records: Sequence[Record], metric_name: str) -> Pooled:
    """Pools the records of one item's repeats; those that are not `ok` give no number."""
    good = [record for record in records if record.status == "ok"]
    values = [value for one in good if (value := finite_value(one.metric(metric_name))) is not None]
    if values:
        told = list(dict.fromkeys(text for record in good for text in record.warnings))
        if len(values) < len(records):
            told.append(f"{len(values)} of {counted(len(records), 'process')} gave it")
        served = why_not_served(good, metric_name)
        figure = Figure(
            statistics.median(values),
            warned=bool(told),
            unlike_served=served,
            detail="; ".join([*([f"{LEGEND}: {served}"] if served else []), *told]),
        )
        return Pooled(figure, min(values), max(values), len(values), len(records))
    return Pooled(_missing(records, metric_name), None, None, 0, len(records))


def with_interval(records: Sequence[Record], metric_name: str) -> Figure:
    """The pooled figure with the ends of its 95 % interval, or the reason why they are not known.

    An exact figure is both ends itself. Of times the interval is that of the processes' mean,
    widened to the median that is shown where that lies outside.
    """
    figure = pool(records, metric_name).figure
    if figure.value is None:
        return figure
    found = level(records, metric_name, sampling=Sampling())
    low, high = found.ends(Sampling().alpha / 2)
    if low is None or high is None:
        return replace(figure, reason=found.reason)
    return replace(figure, low=min(low, figure.value), high=max(high, figure.value))


def change_with_interval(
    records: Sequence[Record], reference: Sequence[Record], metric_name: str
) -> Figure:
    """The paired difference from the reference with its 95 % interval, in the metric's unit."""
    found = one_change(records, reference, metric_name, Sampling(), same_run=True)
    if isinstance(found, Gap):
        return Figure(word=NOT_MEASURED, reason=found.reason)
    return figure_of(found)


def figure_of(found: Difference) -> Figure:
    """A difference, or a level, as a figure with its 95 % interval, where one is known.

    A relative difference is a ratio less 1.
    """
    value = found.plain
    if found.estimate is None:
        return Figure(value, None if value is not None else NOT_MEASURED, reason=found.reason)
    low, high = found.ends(Sampling().alpha / 2)
    return Figure(value, low=low, high=high)


def share_figure(counted: int, of: int) -> Figure:
    """A share of so many, with its exact 95 % limits."""
    share, tail = Proportion(counted, of), Sampling().alpha / 2
    return Figure(share.value, low=share.limit(tail), high=share.limit(1 - tail))


def _missing(records: Sequence[Record], metric_name: str) -> Figure:
    failed = [record for record in records if record.status != "ok"]
    if failed:
        status, _ = Counter(record.status for record in failed).most_common(1)[0]
        reason = next(record.reason for record in failed if record.status == status)
        return Figure(word=status, reason=reason or "no reason was recorded")
    if not records:
        return Figure(word=NOT_MEASURED, reason="not measured")
    metric = records[0].metric(metric_name)
    if metric is None:
        return Figure(word=NOT_MEASURED, reason="the record does not hold this metric")
    reason = metric.reason or "the value is not a finite number"
    return Figure(word=NO_VALUE, reason=reason)


def over_seeds(
    cells: Sequence[CellRecords], measurement: str, slug: str | None, metric: str
) -> Figure:
    """A metric's mean over the seeds, of each its median over processes, with its spread.

    Of a single one, a score of what was generated has its interval instead. Where none has a value,
    the word and the reason of the first.
    """
    if not cells:
        return Figure(word=NOT_MEASURED, reason="not measured")
    if len(cells) == 1 and measurement == "generation":
        return with_interval(cells[0].of(measurement, slug), metric)
    figures = [pool(cell.of(measurement, slug), metric).figure for cell in cells]
    values = [figure.value for figure in figures if figure.value is not None]
    if not values:
        return figures[0]
    told = list(dict.fromkeys(figure.detail for figure in figures if figure.detail))
    warned = any(figure.warned for figure in figures) or len(values) < len(cells)
    served = next((one.unlike_served for one in figures if one.unlike_served), None)
    if len(values) < len(cells):
        told.append(f"{len(values)} of {counted(len(cells), 'seed')} gave it")
    figure = Figure(
        statistics.fmean(values), warned=warned, unlike_served=served, detail="; ".join(told)
    )
    return replace(figure, spread=statistics.stdev(values)) if len(values) > 1 else figure


class Significance(Protocol):
    """What is known of the chance in the figures of a table, by column key and row index."""

    def differ(self, key: str, best: int, other: int) -> bool:
        """Whether two figures of a column are told apart, and not by chance alone."""

    def may_be_best(self, key: str, row: int) -> bool:
        """Whether a figure may be the best of its column."""


def in_other_unit(figure: Figure, factor: float) -> Figure:
    """The same figure times a factor, with its interval and spread."""
    of = figure.value, figure.low, figure.high, figure.spread
    value, low, high, spread = (None if one is None else one * factor for one in of)
    return replace(figure, value=value, low=low, high=high, spread=spread)


def interval_detail(low: float | None, high: float | None, *, relative: bool) -> str:
    """The 95 % interval of a change, in words; empty where there is none, or no chance in it."""
    text = interval_text(low, high, relative=relative)
    return f"95 % interval {text}" if text and low != high else ""


def mark_best(table: Table, significance: Significance | None = None) -> Table:
    """Marks the best figures of each column that has a better direction.

    All that are shown alike with the best, or not told apart from it, are marked; none where
    nothing is told apart from the best. A time that is not that of its format as it is served is
    no best. Without `significance` the figures have no chance in them.
    """
    marked = [list(row.figures) for row in table.rows]
    for index, column in enumerate(table.columns):
        numbers = {
            at: value
            for at, row in enumerate(table.rows)
            if not row.faulty
            and row.figures[index].unlike_served is None
            and (value := row.figures[index].value) is not None
        }
        leaders = [
            at for at in numbers if significance is None or significance.may_be_best(column.key, at)
        ]
        if column.better == "neither" or not leaders:
            continue
        pick = min if column.better == "lower" else max
        best = pick(leaders, key=lambda at: numbers[at])
        scale = table.scale(index)
        texts = {at: scale.text(value) for at, value in numbers.items()}
        behind = [
            at
            for at, text in texts.items()
            if text != texts[best]
            and (significance is None or significance.differ(column.key, best, at))
        ]
        if not behind:
            continue
        for at in leaders:
            if at not in behind:
                marked[at][index] = replace(marked[at][index], best=True)
    rows = tuple(
        replace(row, figures=tuple(figures))
        for row, figures in zip(table.rows, marked, strict=True)
    )
    return replace(table, rows=rows)
