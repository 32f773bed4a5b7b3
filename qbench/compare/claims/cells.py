"""The cells that a claim is about, by what they are, and for each what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.compare.tuned.arms import arms_of
from qbench.core.unchecked import shared_count
from qbench.precisions.names import own_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.claims.claim import Side
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.record import Record
    from qbench.core.spec import PrecisionRef, TuningRef

_BASE = "base"
"""Stands for the precision that a model is tuned in, among the options of its method."""
OF_TRAINING = "training."
"""Begins the metrics of trainings, which no model is served in."""


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed alone; one cell where there are no seeds."""

    name: str
    cells: tuple[CellRecords, ...]
    arm: Arm | None = None

    @property
    def tuning(self) -> TuningRef | None:
        """How they are tuned; None for untuned ones."""
        return self.cells[0].tuning

    def records(self, measurement: str, slug: str) -> list[list[Record]]:
        """Those of an item, cell by cell."""
        return [found for cell in self.cells if (found := cell.of(measurement, slug))]


def groups(table: TableRecords, side: Side, metric: str) -> list[Group]:
    """The groups of cells that a side of a claim means, which the metric is one of."""
    if side.reference:
        return [] if table.reference is None else [Group(table.reference.label, (table.reference,))]
    if side.method is None:
        return [
            Group(cell.label, (cell,)) for cell in table.cells if _is_untuned(cell.records[0], side)
        ]
    found = []
    for arm in arms_of(table):
        if not _is_tuned(arm.tuning, side):
            continue
        if metric.startswith(OF_TRAINING):
            found.append(Group(arm.name, arm.trainings, arm))
            continue
        asked = [cell for cell in arm.served if _is_served(cell, side)]
        if side.deploy is None and side.precision is None:
            asked = list(arm.shown)
        by_name: dict[str, list[CellRecords]] = {}
        for cell in asked:
            label = "" if cell.tuning is None else cell.tuning.label
            deployed = cell.records[0].cell.label.removeprefix(label)
            by_name.setdefault(f"{arm.name}{deployed}", []).append(cell)
        found += [Group(name, tuple(cells), arm) for name, cells in by_name.items()]
    return [group for group in found if group.cells]


def counterpart(group: Group, others: Sequence[Group], sides: tuple[Side, Side]) -> Group | str:
    """Of the other side's groups the one most like `group`; why there is none.

    Of one method, all options are the same but those that the claim names; of two methods, as many
    steps and tokens are trained. So that nothing differs but what the claim is about.
    """
    known = [one for one in others if one.cells != group.cells]
    if not known:
        return f"no cell here is {sides[1].words}"
    named = {*sides[0].tuned, *sides[1].tuned}
    if any(side.base is not None for side in sides):
        named.add(_BASE)
    unlike = {one.name: _unlike(group, one, named) for one in known}
    free = [one for one in known if unlike[one.name] is None]
    if free:
        return max(free, key=lambda one: _alikeness(group, one))
    nearest = max(known, key=lambda one: _alikeness(group, one))
    return f"{group.name} and {nearest.name} differ in more than the claim: {unlike[nearest.name]}"


def _is_untuned(record: Record, side: Side) -> bool:
    cell = record.cell
    return cell.kv_cache == side.kv_cache and _is_held(cell.precision, side.precision, side.options)


def _is_tuned(tuning: TuningRef, side: Side) -> bool:
    return (
        tuning.method == side.method
        and _has(tuning.options, side.tuned)
        and _is_held(tuning.precision, side.base, {})
    )


def _is_served(cell: CellRecords, side: Side) -> bool:
    held = cell.records[0].cell.precision
    return side.deploy in (None, cell.deploy) and _is_held(held, side.precision, side.options)


def _is_held(held: PrecisionRef, name: str | None, options: Mapping[str, Any]) -> bool:
    named = name is None or held.name == (own_name(name) or name)
    return named and _has(held.options, options)


def _has(options: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the options have the values, or one of each list of them."""
    return all(
        key in options and options[key] in (value if isinstance(value, list | tuple) else [value])
        for key, value in wanted.items()
    )


def _unlike(own: Group, other: Group, named: set[str]) -> str | None:
    """What differs beside what the claim names; None if nothing does."""
    mine, theirs = own.tuning, other.tuning
    if mine is None or theirs is None:
        return None
    if mine.method == theirs.method:
        both = mine.options.keys() | theirs.options.keys()
        differing = [
            key for key in sorted(both - named) if mine.options.get(key) != theirs.options.get(key)
        ]
        if mine.precision.name != theirs.precision.name and _BASE not in named:
            differing.append(_BASE)
        return ", ".join(differing).replace("_", " ") or None
    for key in ("steps", "tokens"):
        counts = _trained(own, key), _trained(other, key)
        if counts[0] != counts[1]:
            return f"{key} trained: {counts[0]} and {counts[1]}"
    return None


def _trained(group: Group, key: str) -> int | None:
    arm = group.arm
    trainings = () if arm is None else arm.trainings
    records = [one for cell in trainings for one in cell.of("training") if one.status == "ok"]
    return shared_count([one.details.get(key) for one in records])


def _alikeness(own: Group, other: Group) -> tuple[int, int]:
    """Options that both share: of the tuning, and of what they are held in."""
    mine, theirs = own.cells[0].records[0].cell, other.cells[0].records[0].cell
    tunings = (
        (own.tuning.options, other.tuning.options) if own.tuning and other.tuning else ({}, {})
    )
    return _shared(*tunings), _shared(mine.precision.options, theirs.precision.options)


def _shared(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> int:
    return sum(mine[key] == theirs[key] for key in mine.keys() & theirs.keys())
