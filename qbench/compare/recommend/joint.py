"""Cells of several tables to choose from at once: what of them is the same quantity, and what not.

Tables are put together that are of the same weights with the same reference. A quality of theirs is
one quantity where it may be compared: the same text or items, scored in the same way. A cost is one
where it was taken at the same point; times stay those of each table's own device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import (
    FREE_PARAMS,
    find_gap,
    fingerprint,
    is_device_bound,
    parameter_changes,
)
from qbench.compare.recommend.choices import Choice, Choices, Range, choices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.recommend.budget import Budget
    from qbench.compare.recommend.choices import Axis
    from qbench.compare.selection import CellRecords, TableRecords
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


def join(
    tables: Sequence[TableRecords], budgets: Mapping[str, Budget] | None = None
) -> list[Joint]:
    """The tables that have a quantity in common, by model and reference; none for one alone.

    A suite's budget holds where all that are joined have the same.
    """
    groups: dict[tuple[str, ...], list[TableRecords]] = {}
    for table in tables:
        if table.reference is not None:
            first = table.reference.records[0]
            precision = first.cell.precision
            held = precision.name, json.dumps(precision.options, sort_keys=True, default=str)
            groups.setdefault((table.model, str(fingerprint(first)), *held), []).append(table)
    found = (_joined(group, budgets or {}) for group in groups.values() if len(group) > 1)
    return [one for one in found if one is not None]


def _joined(tables: Sequence[TableRecords], budgets: Mapping[str, Budget]) -> Joint | None:
    stated = {budgets.get(table.suite) for table in tables}
    budget = stated.pop() if len(stated) == 1 else None
    own = [choices(table, budget) for table in tables]
    axes, keys, apart = _shared_axes(tables, own)
    if not any(axis.kind == "cost" for axis in axes):
        return None
    cells, places = [], []
    for at, (table, mine) in enumerate(zip(tables, own, strict=True)):
        for cell in mine.cells:
            cells.append(_placed(cell, _where(table, tables), axes, keys[at]))
            places.append(table)
    limits = {axis.key: own[0].limits[axis.key] for axis in axes if _is_limited(axis, own)}
    costs = [axis.key for axis in axes if axis.kind == "cost"]
    minimize = own[0].minimize if own[0].minimize in costs else costs[0]
    title = f"{tables[0].model}, measured in {len(tables)} places"
    references = tuple(cell.reference for mine in own for cell in mine.cells)
    made = Choices(title, tuple(axes), tuple(cells), limits, minimize)
    return Joint(tuple(tables), made, tuple(places), references, tuple(apart))


def _is_limited(axis: Axis, own: Sequence[Choices]) -> bool:
    """Whether it is limited alike wherever it is limited, and in the first table."""
    limits = {mine.limits[axis.key].bound for mine in own if axis.key in mine.limits}
    return axis.key in own[0].limits and len(limits) == 1


def _shared_axes(
    tables: Sequence[TableRecords], own: Sequence[Choices]
) -> tuple[list[Axis], list[set[str]], list[str]]:
    """The first table's quantities that others have too; which each table has; what is apart."""
    axes: list[Axis] = []
    keys: list[set[str]] = [set() for _ in tables]
    apart: list[str] = []
    for axis in own[0].axes:
        sharing = {0}
        for at in range(1, len(tables)):
            other = next((each for each in own[at].axes if each.key == axis.key), None)
            if other is None:
                continue
            reason = _why_apart(axis, tables[0], other, tables[at])
            if reason is None:
                sharing.add(at)
            else:
                apart.append(f"{axis.short} of {tables[at].title}: {reason}")
        if len(sharing) > 1:
            axes.append(axis)
            for at in sharing:
                keys[at].add(axis.key)
    return axes, keys, apart


def _why_apart(axis: Axis, table: TableRecords, other: Axis, its: TableRecords) -> str | None:
    """Why a quantity of another table is not that of the first; None where it is."""
    if (axis.metric, axis.factor) != (other.metric, other.factor):
        return f"{other.metric} there, {axis.metric} here"
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
