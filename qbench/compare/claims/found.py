"""What records say of one check: for every group of cells and item a figure with its chance."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.claims.cells import counterpart, groups
from qbench.compare.claims.made import as_compared
from qbench.compare.comparable import Gap, find_gap, missing_value
from qbench.compare.compare import ItemName
from qbench.compare.differences import Difference, difference, level
from qbench.compare.estimates.estimates import one_sample
from qbench.compare.items import MERGED
from qbench.compare.marks import default_allowance
from qbench.compare.seeds import difference_over_seeds
from qbench.compare.speed import LEGEND, why_not_served
from qbench.compare.variation import variation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from qbench.compare.claims.cells import Group
    from qbench.compare.claims.claim import Check
    from qbench.compare.estimates.bootstrap import Sampling
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

AGAINST = "against"
"""Parameter of items that are held against another model than the reference."""


@dataclass(frozen=True)
class Found:
    """The figure of one check for one group of cells and one item."""

    check: Check
    cells: str
    """The group, and what it is compared with."""
    item: ItemName
    unit: str
    figure: Difference | Gap


def find_all(
    check: Check,
    table: TableRecords,
    sampling: Sampling,
    taken_by: Mapping[str, Collection[str]] | None = None,
) -> tuple[list[Found], str | None]:
    """Every figure of a check in a table; and why there is none where there is none.

    `taken_by` has the measurements of each metric: where no record holds one, only what failed of
    these can be why.
    """
    own = groups(table, check.of, check.metric)
    homes = _homes(table, check.metric)
    if not own:
        return [], f"no cell here is {check.of.words}"
    others = groups(table, check.against, check.metric) if check.against else []
    found: list[Found] = []
    reasons: list[str] = []
    for group in own:
        base = None
        if check.against is not None:
            paired = counterpart(group, others, (check.of, check.against))
            if isinstance(paired, str):
                reasons.append(paired)
                continue
            base = paired
        made = list(_of_group(check, (group, base), homes, sampling))
        found += made
        if not made:
            meant = homes.union((taken_by or {}).get(check.metric, ()))
            reasons.append(_why_none(check, (group, base), homes, meant))
    return found, None if found else reasons[0]


def _homes(table: TableRecords, metric: str) -> set[str]:
    """The measurements that take the metric, by the records that hold it."""
    return {
        record.item.measurement
        for cell in table.every
        for one in cell.records
        for record in cell.of(one.item.measurement, one.item.slug)
        if record.metric(metric) is not None
    }


def _of_group(
    check: Check, sides: tuple[Group, Group | None], homes: set[str], sampling: Sampling
) -> Iterator[Found]:
    group, base = sides
    name = group.name if base is None else f"{group.name} against {base.name}"
    for item, example in _items(check, group, homes).items():
        pairs = _pairs(group, base, item)
        if not pairs:
            continue
        made = [(as_compared(mine, check), as_compared(theirs, check)) for mine, theirs in pairs]
        metric = as_compared([example], check)[0].metric(check.figure)
        unit = "1" if metric is None else metric.unit
        figure = _of_faulty(group, base) or _figure(check, made, base is not None, sampling)
        yield Found(check, name, item, unit, figure)


def _of_faulty(group: Group, base: Group | None) -> Gap | None:
    """Why figures of cells with faulty layers do not count; None where there are none."""
    cells = (*group.cells, *(base.cells if base is not None else ()))
    faulty = next((cell.label for cell in cells if cell.faulty), None)
    if faulty is None:
        return None
    return Gap("not applicable", f"layers of {faulty} do not compute what they hold")


def _items(check: Check, group: Group, homes: set[str]) -> dict[ItemName, Record]:
    """The items that hold the metric, or would if they had succeeded, each with a record."""
    found: dict[ItemName, Record] = {}
    for cell in group.cells:
        for measurement in homes:
            for record in cell.of(measurement):
                name = ItemName(measurement, record.item.slug)
                if _is_meant(check, record) and (name not in found or record.status == "ok"):
                    found[name] = record
    return found


def _is_meant(check: Check, record: Record) -> bool:
    params = record.item.params
    if params.get(AGAINST) == MERGED and AGAINST not in check.at:
        return False
    fits = all(
        params.get(key) in (value if isinstance(value, list | tuple) else [value])
        for key, value in check.at.items()
    )
    return fits and (record.status != "ok" or record.metric(check.metric) is not None)


def _pairs(
    group: Group, base: Group | None, item: ItemName
) -> list[tuple[list[Record], list[Record]]]:
    """The records of both sides, seed by seed; of the same seed where the other side has seeds."""
    if base is None:
        return [(records, []) for records in group.records(*item)]
    if base.tuning is None:
        theirs = base.cells[0].of(*item)
        return [(records, theirs) for records in group.records(*item) if theirs]
    by_seed = {
        cell.tuning.seed: found
        for cell in base.cells
        if cell.tuning is not None and (found := cell.of(*item))
    }
    return [
        (mine, by_seed[cell.tuning.seed])
        for cell in group.cells
        if cell.tuning is not None and cell.tuning.seed in by_seed and (mine := cell.of(*item))
    ]


def _figure(
    check: Check,
    pairs: Sequence[tuple[Sequence[Record], Sequence[Record]]],
    of_change: bool,  # noqa: FBT001
    sampling: Sampling,
) -> Difference | Gap:
    """The value or the change over the seeds, or what bars it."""
    metric = check.figure
    for mine, theirs in pairs:
        gap = (
            find_gap(mine, theirs, metric, same_run=True)
            if of_change
            else missing_value(mine, metric, "this side")
        )
        emulated = why_not_served([*mine, *theirs], check.metric)
        if gap is not None:
            return gap
        if emulated is not None:
            return Gap("not applicable", f"{LEGEND}: {emulated}")
    example = next(one for one in pairs[0][0] if one.value(metric) is not None)
    found = example.metric(metric)
    varies_by = "sample" if found is None else variation(example, found)
    if not of_change:
        return _level(metric, [mine for mine, _ in pairs], varies_by, sampling)
    relative = check.expect.relative
    if relative is None and found is not None:
        relative = default_allowance(found, example.item.measurement).relative
    relative = bool(relative)
    if varies_by == "sample":
        return difference_over_seeds(pairs, metric, relative=relative, sampling=sampling)
    if varies_by == "process":
        # Each seed is a process of its own.
        mine = [record for one, _ in pairs for record in one]
        theirs = [record for _, one in pairs for record in one]
        return difference(mine, theirs, metric, relative=relative, sampling=sampling)
    return _alike(
        [difference(*pair, metric, relative=relative, sampling=sampling) for pair in pairs]
    )


def _level(
    metric: str, seeds: Sequence[Sequence[Record]], varies_by: str, sampling: Sampling
) -> Difference:
    if varies_by == "process":
        return level([one for records in seeds for one in records], metric, sampling=sampling)
    levels = [level(records, metric, sampling=sampling) for records in seeds]
    if len(levels) == 1 or varies_by == "nothing":
        return _alike(levels)
    reason = "a value over several seeds has no known chance; ask for a change"
    return replace(levels[0], estimate=None, reason=reason)


def _alike(exact: Sequence[Difference]) -> Difference:
    """The exact figure of all seeds; where they differ, their mean with the chance of the seeds."""
    values = [one.estimate.value for one in exact if one.estimate is not None]
    if len(set(values)) <= 1 or len(values) < len(exact):
        return exact[0]
    return replace(exact[0], estimate=one_sample(values), method="Student's t over the seeds")


def _why_none(
    check: Check, sides: tuple[Group, Group | None], homes: set[str], meant: set[str]
) -> str:
    """Why there is no figure of a group at all."""
    group, base = sides
    for side in (group, base):
        if side is not None and not _items(check, side, homes):
            where = json.dumps(check.at).replace('"', "") if check.at else ""
            told = f"no record of {side.name} holds {check.metric}{where and f' at {where}'}"
            return "; ".join([told, *_failures(side, meant)])
    return f"the cells of {group.name} have no item of {check.metric} in common with the others"


def _failures(group: Group, meant: set[str]) -> list[str]:
    """What was asked of the cells and failed of these measurements, each kind once."""
    failed = {
        record.item.measurement: f"{record.item.measurement} is {record.status}"
        f" ({record.reason or 'no reason given'})"
        for cell in group.cells
        for record in cell.records
        if record.status != "ok" and record.item.measurement in meant
    }
    return list(failed.values())
