"""Which figures of the decision table are told apart from each other, by their records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.estimates.estimates import two_sided
from qbench.compare.marks import one_change
from qbench.compare.variation import variation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qbench.compare.selection import CellRecords
    from qbench.core.page import Figure
    from qbench.core.record import Record

Source = tuple[str, str | None, str]
"""Measurement, item and metric that a column is made of."""


@dataclass(frozen=True)
class RecordSignificance:
    """Compares the cells of the rows as `qbench compare` does."""

    cells: Sequence[CellRecords]
    """By row."""
    sources: Mapping[str, Source]
    """By column key."""
    change: Callable[[CellRecords, str], Figure]
    """The change of the perplexity of a text from the reference."""

    def differ(self, key: str, best: int, other: int) -> bool:
        """Whether the difference is not chance; not so where its chance is unknown."""
        measurement, slug, metric = self.sources[key]
        sides = [self.cells[at].of(measurement, slug) for at in (best, other)]
        if not any(_varies(side, metric) for side in sides):
            return True
        found = one_change(sides[0], sides[1], metric, Sampling(), same_run=True)
        if isinstance(found, Gap) or found.estimate is None:
            return False
        return two_sided(found.estimate) <= Sampling().alpha

    def may_be_best(self, key: str, row: int) -> bool:
        """Not a resident size, nor a perplexity that may be the reference's."""
        measurement, slug, metric = self.sources[key]
        cell = self.cells[row]
        if metric == "perplexity" and slug is not None and not cell.reference:
            change = self.change(cell, slug)
            return change.value is None or (change.low is not None and not change.uncertain)
        return not (measurement == "memory" and _varies(cell.of(measurement, slug), metric))


def _varies(records: Sequence[Record], metric: str) -> bool:
    found = ((record, record.metric(metric)) for record in records)
    return any(one is not None and variation(record, one) != "nothing" for record, one in found)
