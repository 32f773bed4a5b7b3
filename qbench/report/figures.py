"""One metric of one cell pooled over its processes, and the best figures of a table."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from qbench.core.page import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        partial = len(values) < len(records)
        warned = partial or any(record.warnings for record in good)
        figure = Figure(statistics.median(values), warned=warned)
        return Pooled(figure, min(values), max(values), len(values), len(records))
    return Pooled(_missing(records, metric_name), None, None, 0, len(records))


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


class Significance(Protocol):
    """What is known of the chance in the figures of a table, by column key and row index."""

    def differ(self, key: str, best: int, other: int) -> bool:
        """Whether two figures of a column are told apart, and not by chance alone."""

    def may_be_best(self, key: str, row: int) -> bool:
        """Whether a figure may be the best of its column."""


def mark_best(table: Table, significance: Significance | None = None) -> Table:
    """Marks the best figures of each column that has a better direction.

    All that are shown alike with the best, or not told apart from it, are marked; none where
    nothing is told apart from the best. Without `significance` the figures have no chance in them.
    """
    marked = [list(row.figures) for row in table.rows]
    for index, column in enumerate(table.columns):
        numbers = {
            at: value
            for at, row in enumerate(table.rows)
            if not row.faulty and (value := row.figures[index].value) is not None
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
