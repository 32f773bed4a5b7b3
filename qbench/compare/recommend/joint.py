"""Cells of several tables to choose from at once: what of them is the same quantity, and what not.

Tables are put together that are of the same weights with the same reference. A quality of theirs is
one quantity where it may be compared: the same text or items, scored in the same way. A cost is one
where it was taken at the same point; times stay those of each table's own device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.comparable import (
    FREE_PARAMS,
    find_gap,
    fingerprint,
    is_device_bound,
    parameter_changes,
)
from qbench.compare.recommend.choices import Choice, Choices, Range, choices
from qbench.compare.stated import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.recommend.axis import Axis
    from qbench.compare.recommend.choices import Limit
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.stated import Stated
    from qbench.core.record import Record

_COUNTED = "perplexity"
"""What of a text is held against another table's: the divergence is of the same forward passes."""


@dataclass(frozen=True)
class Joint:
    """The cells of tables that are of one model."""

    tables: tuple[TableRecords, ...]
    choices: Choices
    """Of all their cells, each named with where it was measured; of the quantities that two tables
    share."""
    places: tuple[TableRecords, ...]
    """Where each of the cells was measured."""
    references: tuple[bool, ...]
    """Whether each of the cells is its table's reference."""
    apart: tuple[str, ...]
    """What is not put together, with the reason."""


def join(tables: Sequence[TableRecords], stated: Mapping[str, Stated] | None = None) -> list[Joint]:
    """The tables that have a quantity in common, by model and reference; none for one alone.

    A suite's budget holds where all that are joined have the same, its price for its own cells.
    """
    groups: dict[tuple[str, ...], list[TableRecords]] = {}
    for table in tables:
        if table.reference is not None:
            first = table.reference.records[0]
            precision = first.cell.precision
            held = precision.name, json.dumps(precision.options, sort_keys=True, default=str)
            groups.setdefault((table.model, str(fingerprint(first)), *held), []).append(table)
    found = (_joined(group, stated or {}) for group in groups.values() if len(group) > 1)
    return [one for one in found if one is not None]


class _Shared(NamedTuple):
    """A quantity that is the same in several tables."""

    axis: Axis
    tables: tuple[int, ...]
    """Which of them."""


def _joined(tables: Sequence[TableRecords], stated: Mapping[str, Stated]) -> Joint | None:
    each = [stated.get(table.suite, NOTHING) for table in tables]
    budgets = [one.budget for one in each]
    budget = budgets[0] if all(one == budgets[0] for one in budgets) else None
    own = [choices(table, budget, one.price) for table, one in zip(tables, each, strict=True)]
    shared, apart = _shared(tables, own)
    axes = [one.axis for one in shared]
    costs = [axis.key for axis in axes if axis.kind == "cost"]
    if not costs:
        return None
    cells, places = [], []
    for at, (table, mine) in enumerate(zip(tables, own, strict=True)):
        known = {one.axis.key for one in shared if at in one.tables}
        for cell in mine.cells:
            cells.append(_placed(cell, _where(table, tables), axes, known))
            places.append(table)
    limits = {
        one.axis.key: limit for one in shared if (limit := _common_limit(one, own)) is not None
    }
    minimize = own[0].minimize if own[0].minimize in costs else costs[0]
    title = f"{tables[0].model}, measured in {len(tables)} places"
    references = tuple(cell.reference for mine in own for cell in mine.cells)
    made = Choices(title, tuple(axes), tuple(cells), limits, minimize)
    return Joint(tuple(tables), made, tuple(places), references, tuple(apart))


def _common_limit(shared: _Shared, own: Sequence[Choices]) -> Limit | None:
    """The limit on it, where all tables that share it have the same."""
    limits = [own[at].limits.get(shared.axis.key) for at in shared.tables]
    return limits[0] if len({limit and limit.bound for limit in limits}) == 1 else None


def _shared(
    tables: Sequence[TableRecords], own: Sequence[Choices]
) -> tuple[list[_Shared], list[str]]:
    """Of each quantity the tables that share it, costs first; and what is not put together, why."""
    found: list[_Shared] = []
    apart: list[str] = []
    every = [axis.key for kind in ("cost", "quality") for mine in own for axis in mine.axes
             if axis.kind == kind]  # fmt: skip
    for key in dict.fromkeys(every):
        having = [
            (at, axis) for at, mine in enumerate(own) for axis in mine.axes if axis.key == key
        ]
        groups = []
        while having:
            (base, axis), *others = having
            reasons = {at: _why_apart(axis, tables[base], one, tables[at]) for at, one in others}
            groups.append((axis, [base, *(at for at, why in reasons.items() if why is None)]))
            apart += [
                f"{axis.short} of {tables[at].title}: {why}"
                for at, why in reasons.items()
                if why is not None and len(groups) == 1
            ]
            having = [(at, one) for at, one in others if reasons[at] is not None]
        axis, members = max(groups, key=lambda group: len(group[1]))
        if len(members) > 1:
            found.append(_Shared(axis, tuple(members)))
    return found, apart


def _why_apart(axis: Axis, table: TableRecords, other: Axis, its: TableRecords) -> str | None:
    """Why a quantity of another table is not that of the first; None where it is."""
    if axis.metric != other.metric:
        return f"{other.metric} there, {axis.metric} here"
    if axis.unit != other.unit:
        return f"{other.unit} there, {axis.unit} here"
    if axis.kind == "quality":
        mine, theirs = (
            (one.reference.of(axis.measurement, each.item) if one.reference else [])
            for one, each in ((table, axis), (its, other))
        )
        metric = _COUNTED if axis.measurement == "quality" else axis.metric
        gap = find_gap(theirs, mine, metric, same_run=True)
        return None if gap is None else gap.reason
    first, second = _record(axis, table.cells), _record(other, its.cells)
    if first is None or second is None:
        return "not measured"
    if first.protocol != second.protocol:
        return f"other protocol: {second.protocol} there, {first.protocol} here"
    bound = is_device_bound(first, axis.metric)
    changed = [
        one for one in parameter_changes(second, first) if bound or one.name not in FREE_PARAMS
    ]
    return None if not changed else f"other {changed[0].name}: {changed[0].new}, {changed[0].old}"


def _record(axis: Axis, cells: Sequence[CellRecords]) -> Record | None:
    found = (one for cell in cells for one in cell.of(axis.measurement, axis.item))
    return next((one for one in found if one.status == "ok"), None)


def _where(table: TableRecords, tables: Sequence[TableRecords]) -> str:
    """What the table differs in from the others."""
    names = [(one.suite, one.device) for one in tables]
    several = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    shown = zip((table.suite, table.device), several, strict=True)
    return ", ".join(name for name, differs in shown if differs)


def _placed(cell: Choice, where: str, axes: Sequence[Axis], known: set[str]) -> Choice:
    """The cell with where it was measured; what its table does not share is not known.

    It is no one's reference: figures of other places are not told as shares of it.
    """
    unknown = Range(None, None, None, f"not measured alike ({where})")
    ranges = {axis.key: cell.ranges[axis.key] if axis.key in known else unknown for axis in axes}
    return replace(cell, label=f"{cell.label} ({where})", reference=False, ranges=ranges)
