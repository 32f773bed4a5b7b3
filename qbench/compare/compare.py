"""Two sets of records, metric by metric: what changed, how surely, and what cannot be compared.

Pure: records in, a comparison out. What its marks mean is told in `qbench.compare.marks`; the
adjustment there is over all the metrics of a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.comparable import Gap, condition_changes, missing_value, parameter_changes
from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.flips import SCORED, find_flips
from qbench.compare.marks import default_allowance, direction, mark_all, one_change, verdict_of
from qbench.core.record import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.comparable import ConditionChange
    from qbench.compare.differences import Difference
    from qbench.compare.flips import Flips
    from qbench.compare.marks import Allowance, Mark
    from qbench.compare.span import Span
    from qbench.core.record import Better, Record


class CellName(NamedTuple):
    """A cell within a set of records of one suite and device."""

    model: str
    label: str


class ItemName(NamedTuple):
    """An item of a measurement."""

    measurement: str
    slug: str


_WHOLE = Metric(name="", unit="", better="neither", value=None, reason="stands for a whole item")

Index = dict[CellName, dict[ItemName, list["Record"]]]


@dataclass(frozen=True)
class Row:
    """One metric of one item of one cell on both sides."""

    cell: CellName
    item: ItemName
    metric: str
    """Empty where the whole item cannot be compared."""
    unit: str
    better: Better
    allowance: Allowance
    difference: Difference | None
    mark: Mark
    levels: tuple[Difference, Difference] | None = None
    """Both sides' scores with their own certainty; None but for tasks and generations."""
    flips: Flips | None = None
    """Of a score of right and wrong."""

    @property
    def verdict(self) -> str:
        """`equal`, the direction of a real difference, or the finding."""
        return verdict_of(self.difference, self.mark, self.better)

    @property
    def direction(self) -> str | None:
        """`better`, `worse` or `changed` for a real difference, else None."""
        return direction(self.difference, self.mark, self.better)


@dataclass(frozen=True)
class Comparison:
    """Everything that two sets of records share, and what they do not."""

    new: str
    old: str
    rows: tuple[Row, ...]
    conditions: tuple[ConditionChange, ...]
    sampling: Sampling
    tests: int
    """Differences with a known chance error: what the adjustment is over."""
    span: Span | None = None
    """The commits and conditions between the two; None where it was not looked for."""

    @property
    def is_worse(self) -> bool:
        """Whether anything became worse."""
        return any(row.direction == "worse" for row in self.rows)


def index_records(records: Sequence[Record]) -> Index:
    """The records by cell and item, repeats in their order; of one suite and one device."""
    found: Index = {}
    for record in sorted(records, key=lambda record: record.item.repeat):
        cell = CellName(record.cell.model.name, record.cell.label)
        item = ItemName(record.item.measurement, record.item.slug)
        found.setdefault(cell, {}).setdefault(item, []).append(record)
    return found


def compare_records(
    new: Sequence[Record],
    old: Sequence[Record],
    *,
    names: tuple[str, str] = ("A", "B"),
    sampling: Sampling | None = None,
    allowances: Mapping[str, Allowance] | None = None,
) -> Comparison:
    """Compares `new` with `old`, each the newest records of one suite and device.

    Cells pair by model and precision; where each side is a single cell, the two pair whatever
    their names. `allowances` override the margins of equivalence by metric.
    """
    sampling = sampling or Sampling()
    mine, theirs = index_records(new), index_records(old)
    if len(mine) == len(theirs) == 1:
        (own,) = mine
        theirs = {own: next(iter(theirs.values()))}
    unmarked: list[_UnmarkedRow] = []
    for cell in dict.fromkeys((*mine, *theirs)):
        unmarked += _unmarked_rows(cell, mine.get(cell, {}), theirs.get(cell, {}), sampling)
    chosen = [
        (allowances or {}).get(row.metric.name)
        or default_allowance(row.metric, row.item.measurement)
        for row in unmarked
    ]
    marks = mark_all(
        [(row.found, allowance) for row, allowance in zip(unmarked, chosen, strict=True)],
        alpha=sampling.alpha,
    )
    rows = tuple(
        _row(row, allowance, mark, sampling)
        for row, allowance, mark in zip(unmarked, chosen, marks, strict=True)
    )
    tests = sum(row.difference is not None and row.difference.estimate is not None for row in rows)
    conditions = tuple(condition_changes(new, old))
    return Comparison(names[0], names[1], rows, conditions, sampling, tests)


def counterpart(
    item: ItemName, records: Sequence[Record], others: Mapping[ItemName, list[Record]]
) -> Gap:
    """Why an item has no namesake on the other side: other parameters, or none measured at all."""
    kindred = [found[0] for name, found in others.items() if name.measurement == item.measurement]
    changes = [parameter_changes(records[0], one) for one in kindred]
    nearest = min((one for one in changes if one), key=len, default=None)
    if nearest is None:
        return Gap("missing", "the other side has no record of it")
    words = ", ".join(f"{one.name} {one.new} here, {one.old} there" for one in nearest)
    return Gap("incomparable", f"other parameters: {words}")


class _UnmarkedRow(NamedTuple):
    """A row before its mark, which depends on how many there are."""

    cell: CellName
    item: ItemName
    metric: Metric
    found: Difference | Gap
    scored: tuple[list[Record], list[Record]] | None = None
    """The records of both sides, of a task or a generation."""


def _unmarked_rows(
    cell: CellName,
    new: Mapping[ItemName, list[Record]],
    old: Mapping[ItemName, list[Record]],
    sampling: Sampling,
) -> list[_UnmarkedRow]:
    unmarked = []
    lonely = {name.measurement for name in new if name not in old}
    for item in dict.fromkeys((*new, *old)):
        mine, theirs = new.get(item, []), old.get(item, [])
        if not mine and item.measurement in lonely:
            continue  # told at the item of this side that it might have been
        if not mine or not theirs:
            there = old if mine else new
            unmarked.append(
                _UnmarkedRow(cell, item, _WHOLE, counterpart(item, mine or theirs, there))
            )
            continue
        gap = _failed(mine, "this side") or _failed(theirs, "the other side")
        if gap is not None:
            unmarked.append(_UnmarkedRow(cell, item, _WHOLE, gap))
            continue
        for metric in _metrics(mine, theirs):
            found = one_change(mine, theirs, metric.name, sampling, same_run=False)
            scored = (mine, theirs) if item.measurement in SCORED else None
            unmarked.append(_UnmarkedRow(cell, item, metric, found, scored))
    return unmarked


def _metrics(new: Sequence[Record], old: Sequence[Record]) -> list[Metric]:
    """The metrics that have a value on one of the sides, none twice."""
    found: dict[str, Metric] = {}
    for record in (*new, *old):
        if record.status == "ok":
            for metric in record.metrics:
                if metric.value is not None:
                    found.setdefault(metric.name, metric)
    return list(found.values())


def _failed(records: Sequence[Record], side: str) -> Gap | None:
    """What became of an item that no repeat succeeded in."""
    failed = all(record.status != "ok" for record in records)
    return missing_value(records, "", side) if failed else None


def _row(row: _UnmarkedRow, allowance: Allowance, mark: Mark, sampling: Sampling) -> Row:
    flips, levels = None, None
    if row.scored is not None and not isinstance(row.found, Gap):
        new, old = row.scored
        counted = find_flips(new, old, row.metric.name, sampling=sampling)
        flips = None if isinstance(counted, Gap) else counted
        levels = (
            level(new, row.metric.name, sampling=sampling),
            level(old, row.metric.name, sampling=sampling),
        )
    return Row(
        cell=row.cell,
        item=row.item,
        metric=row.metric.name,
        unit=row.metric.unit,
        better=row.metric.better,
        allowance=allowance,
        difference=None if isinstance(row.found, Gap) else row.found,
        mark=mark,
        levels=levels,
        flips=flips,
    )
