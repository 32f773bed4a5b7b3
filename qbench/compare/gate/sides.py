"""Where a gate looks: both sides by cell and item, and what a rule finds there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap, find_gap, missing_value
from qbench.compare.compare import CellName, ItemName, counterpart, index_records
from qbench.compare.differences import difference, level
from qbench.compare.flips import find_flips, flip_metrics, score_of
from qbench.compare.gate.rules import LEVELS
from qbench.compare.seeds import difference_over_seeds
from qbench.precisions.names import picks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.compare import Index
    from qbench.compare.differences import Difference
    from qbench.compare.estimates.bootstrap import Sampling
    from qbench.compare.gate.rules import GateRule
    from qbench.core.record import Metric, Record
    from qbench.core.spec import Cell, Item

    _Pair = tuple[list[Record], list[Record]]

Place = tuple[CellName, ItemName]
_GONE = "the baseline has it, and this run has no record of it"
_NEW = "the baseline does not have it; `qbench baseline SUITE` takes it in"


class BothSides:
    """What there is to check: both sides by cell and item, and what was expected."""

    def __init__(
        self,
        records: Sequence[Record],
        baseline: Sequence[Record],
        expected: Sequence[tuple[Cell, Item]],
        only: Sequence[str],
    ) -> None:
        self.new: Index = index_records(records)
        self.old: Index = index_records(baseline)
        self.cells: dict[CellName, Cell] = {}
        self.items: dict[Place, Item] = {}
        self.metrics: dict[ItemName, dict[str, Metric]] = {}
        self.expected: set[Place] = {place_of(cell, item) for cell, item in expected}
        pairs = [(record.cell, record.item) for record in (*records, *baseline)]
        for cell, item in (*expected, *pairs):
            if not only or any(picks(pattern, cell.names) for pattern in only):
                self.cells.setdefault(place_of(cell, item)[0], cell)
                self.items.setdefault(place_of(cell, item), item)
        for record in (*records, *baseline):
            known = self.metrics.setdefault(place_of(record.cell, record.item)[1], {})
            known.update({one.name: one for one in (*record.metrics, *flip_metrics(record))})
        self.reference = {
            record.cell.model.name: place_of(record.cell, record.item)[0]
            for record in sorted(records, key=lambda record: record.started_at)
            if record.reference
        }

    def seeds(self, place: Place) -> tuple[CellName, list[Place]]:
        """What the cells that differ from this one in their seed alone are called, and the places.

        The cell itself and its place where there is no other seed of it.
        """
        cell = self.cells[place[0]]
        if cell.tuning is None:
            return place[0], [place]
        arm = (cell.model.name, cell.tuning.arm, cell.deploy)
        same = [
            (name, place[1])
            for name, one in self.cells.items()
            if one.tuning is not None
            and (one.model.name, one.tuning.arm, one.deploy) == arm
            and (name, place[1]) in self.items
        ]
        label = f"{cell.tuning.arm}--{cell.deploy}" if cell.deploy else cell.tuning.arm
        name = CellName(cell.model.name, f"{label} ({len(same)} seeds)")
        return (name, same) if len(same) > 1 else (place[0], [place])

    def asked(self, rule: GateRule) -> Iterator[tuple[Place, Metric]]:
        """The metrics that a rule is about, each with its place."""
        for place, item in self.items.items():
            if rule.picks(self.cells[place[0]], item):
                for metric in self.metrics_of(place[1]).values():
                    if rule.matches(metric.name, metric.better, item):
                        yield place, metric

    def records_of(self, place: Place) -> list[Record]:
        """This run's records there."""
        return self.new.get(place[0], {}).get(place[1], [])

    def metrics_of(self, item: ItemName) -> dict[str, Metric]:
        """The metrics of the item; of its measurement where no cell has measured it."""
        own = self.metrics.get(item)
        if own:
            return own
        kindred = (f for name, f in self.metrics.items() if name.measurement == item.measurement)
        return next((found for found in kindred if found), {})


def place_of(cell: Cell, item: Item) -> Place:
    """The names that a cell's item goes by."""
    return CellName(cell.model.name, cell.label), ItemName(item.measurement, item.slug)


def find_change(
    rule: GateRule, sides: BothSides, place: Place, metric: str, sampling: Sampling
) -> Difference | Gap | None:
    """What a rule finds of a metric at a place; None where it has nothing to say."""
    counted = score_of(metric) if rule.counts_flips else None
    if rule.bound[0] in LEVELS and counted is None:
        return _level(sides, place, metric, sampling)
    pair = _of_reference(sides, place) if rule.against == "reference" else _pair(sides, place)
    if pair is None or isinstance(pair, Gap):
        return pair
    if counted is not None:
        return _flips(rule, *pair, counted, sampling)
    return _change(rule, *pair, metric, sampling)


def _change(
    rule: GateRule,
    new: Sequence[Record],
    old: Sequence[Record],
    metric: str,
    sampling: Sampling,
) -> Difference | Gap | None:
    if all(never_measured(side, metric) for side in (new, old)):
        return None
    empty = [side[0].metric(metric) for side in (new, old) if side]
    if len(empty) == 2 and all(one is not None and one.value is None for one in empty):
        reason = empty[0].reason if empty[0] else None
        return Gap("not applicable", reason or "it has no value on either side")
    same_run = rule.against == "reference"
    gap = find_gap(new, old, metric, same_run=same_run)
    if gap is not None:
        return gap
    return difference(new, old, metric, relative=rule.bound[1].relative, sampling=sampling)


def _flips(
    rule: GateRule,
    new: Sequence[Record],
    old: Sequence[Record],
    counted: tuple[str, str],
    sampling: Sampling,
) -> Difference | Gap:
    """The share of items that flipped, or whose answer changed, from the one side to the other."""
    if rule.bound[0] not in LEVELS:
        return Gap(
            "missing",
            f"a share of items is no change of a value: write {{max: …}}, found {rule.bound[0]}",
        )
    score, share = counted
    found = find_flips(new, old, score, sampling=sampling, same_run=rule.against == "reference")
    if isinstance(found, Gap):
        return found
    shared = found.share(share)
    return Gap("missing", shared.reason or "it is not known") if shared.new is None else shared


def find_change_over_seeds(
    rule: GateRule, sides: BothSides, places: Sequence[Place], metric: str, sampling: Sampling
) -> Difference | None:
    """The mean change over the seeds of a tuning, whose spread widens its interval.

    None where each seed is to be looked at by itself: for a level, for what is no mean over windows
    or items, and where a seed has no figure.
    """
    if rule.bound[0] in LEVELS:
        return None
    same_run = rule.against == "reference"
    found = [_of_reference(sides, one) if same_run else _pair(sides, one) for one in places]
    pairs = [one for one in found if isinstance(one, tuple) and all(one)]
    if len(pairs) < len(found):
        return None
    gaps = (find_gap(*pair, metric, same_run=same_run) for pair in pairs)
    if any(gap is not None for gap in gaps):
        return None
    relative = rule.bound[1].relative
    pooled = difference_over_seeds(
        pairs, metric, relative=relative, sampling=sampling, same_run=same_run
    )
    if isinstance(pooled, Gap) or pooled.estimate is None:
        return None
    return pooled


def never_measured(records: Sequence[Record], metric: str) -> bool:
    """Whether the item succeeded and its record holds no such metric at all."""
    good = [record for record in records if record.status == "ok"]
    return bool(good) and all(record.metric(metric) is None for record in good)


def _level(
    sides: BothSides, place: Place, metric: str, sampling: Sampling
) -> Difference | Gap | None:
    """The metric itself; a reference need not have what is measured against it."""
    new = sides.records_of(place)
    if not new and place not in sides.expected:
        return None  # the baseline's alone: a level is not counted from it
    gap = missing_value(new, metric, "this run")
    if gap is None:
        return level(new, metric, sampling=sampling)
    is_reference = bool(new) and sides.reference.get(place[0].model) == place[0]
    return None if is_reference or never_measured(new, metric) else gap


def _of_reference(sides: BothSides, place: Place) -> _Pair | None:
    """The cell's and the reference's records of the item; None for the reference itself."""
    cell, item = place
    reference = sides.reference.get(cell.model)
    if reference == cell or (cell not in sides.new and place not in sides.expected):
        return None
    old = [] if reference is None else sides.new[reference].get(item, [])
    return sides.records_of(place), old


def _pair(sides: BothSides, place: Place) -> _Pair | Gap | None:
    """The run's and the baseline's records of the item, or why there are not both."""
    cell, item = place
    new, old = sides.new.get(cell, {}), sides.old.get(cell, {})
    if item in new and item in old:
        return new[item], old[item]
    if item not in new and item not in old:
        return Gap("missing", "the suite asks for it, and there is no record of it")
    if item in new:
        found = counterpart(item, new[item], old)
        return found if found.kind == "incomparable" else Gap("missing", _NEW)
    if any(name.measurement == item.measurement and name not in old for name in new):
        return None  # told at the item that took its place
    return Gap("missing", _GONE)
