"""Flips: items that one side gets right and the other wrong, and answers that are other ones.

Two cells of the same score may still disagree on many items (Dutta et al., Accuracy is Not All You
Need, 2024): what was lost on some was gained on others. Each share has exact limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap, find_gap
from qbench.compare.differences import Difference, level_of
from qbench.compare.items import TASKS, task_of
from qbench.compare.series import align, find_series
from qbench.core.record import Metric
from qbench.core.unchecked import as_list, as_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.estimates.bootstrap import Sampling
    from qbench.compare.series import Series
    from qbench.core.record import Record

ANSWERS = "answers"
"""Key of a task's details with what was answered to each item, by score."""
FLIPS, CHANGED = "flips", "changed"
"""Behind a score's name: the share of items that went from right to wrong or back, and of those
whose answer is another one."""
SCORED = ("needle", *TASKS, "generation")
"""Measurements whose figures are scores of items."""


@dataclass(frozen=True)
class Flips:
    """What became of the items of a score of right and wrong, from the old side to the new."""

    items: int
    lost: int
    """Right before, wrong now."""
    gained: int
    """Wrong before, right now."""
    flips: Difference
    """The share of items that are one or the other, with its certainty."""
    changed: Difference
    """The share of items with another answer, right or wrong; without a value where the answers
    are not known, which its reason tells."""

    def share(self, name: str) -> Difference:
        """The share of that name: `flips` or `changed`."""
        return self.flips if name == FLIPS else self.changed


def find_flips(
    new: Sequence[Record],
    old: Sequence[Record],
    metric: str,
    *,
    sampling: Sampling,
    same_run: bool = False,
) -> Flips | Gap:
    """The flips of one score from `old` to `new`, records of one item; what bars them, if anything.

    `not applicable` is a figure that does not count items as right or wrong.
    """
    gap = find_gap(new, old, metric, same_run=same_run)
    if gap is not None:
        return gap
    mine, theirs = (_first(records, metric) for records in (new, old))
    own, base = (find_series(one, metric, one.value(metric) or 0.0) for one in (mine, theirs))
    if own is None or base is None or not (own.binary and base.binary):
        return Gap("not applicable", "it does not count items as right or wrong")
    aligned = align(own, base)
    if aligned is None:
        return Gap("incomparable", "the items of the two sides are not the same ones")
    pairs = list(zip(own.sums, aligned.sums, strict=True))
    own = replace(own, clusters=own.clusters or aligned.clusters)
    flipped = [mine != theirs for mine, theirs in pairs]
    given = _answers(mine, metric), _answers(theirs, metric)
    return Flips(
        items=len(pairs),
        lost=pairs.count((0.0, 1.0)),
        gained=pairs.count((1.0, 0.0)),
        flips=_share(own, flipped, sampling),
        changed=_changed(own, base, given, sampling),
    )


def flip_metrics(record: Record) -> list[Metric]:
    """What can be derived of a record's scores beside those of another: named, without a value."""
    if record.item.measurement not in SCORED:
        return []
    return [
        Metric(
            name=f"{metric.name}.{share}",
            unit="1",
            better="lower",
            value=None,
            reason="it is a share of items that differ from those of another cell or run",
        )
        for metric in record.metrics
        if metric.value is not None
        and (series := find_series(record, metric.name, metric.value)) is not None
        and series.binary
        for share in (FLIPS, CHANGED)
    ]


def score_of(name: str) -> tuple[str, str] | None:
    """The score and the share that a derived metric's name is made of; None for any other name."""
    score, _, share = name.rpartition(".")
    return (score, share) if score and share in (FLIPS, CHANGED) else None


def _changed(
    own: Series,
    base: Series,
    given: tuple[tuple[object, ...] | None, tuple[object, ...] | None],
    sampling: Sampling,
) -> Difference:
    mine, theirs = given
    if mine is None or theirs is None:
        which = "the other side's" if mine is not None else "this side's"
        which = "neither side's" if mine is None and theirs is None else which
        reason = f"{which} record holds what was answered"
        if which != "neither side's":
            reason = f"{which} record does not hold what was answered"
        return Difference(None, None, relative=False, estimate=None, method="none", reason=reason)
    if own.ids != base.ids and own.ids is not None and base.ids is not None:
        place = {name: index for index, name in enumerate(base.ids)}
        theirs = tuple(theirs[place[name]] for name in own.ids)
    others = [one != another for one, another in zip(mine, theirs, strict=True)]
    return _share(own, others, sampling)


def _share(own: Series, differs: Sequence[bool], sampling: Sampling) -> Difference:
    value = sum(differs) / len(differs)
    return level_of(replace(own, sums=tuple(map(float, differs))), value, sampling)


def _answers(record: Record, metric: str) -> tuple[object, ...] | None:
    """What was answered to each item, in the order of the items; None where it was not kept."""
    score = metric.removeprefix(f"{record.item.measurement}.{task_of(record)}.")
    given = as_list(as_mapping(record.details.get(ANSWERS)).get(score))
    if record.item.measurement == "generation":
        given = [tuple(as_list(one)) for one in as_list(record.details.get("generated_ids"))]
    series = find_series(record, metric, record.value(metric) or 0.0)
    return tuple(given) if series is not None and len(given) == len(series.sums) else None


def _first(records: Sequence[Record], metric: str) -> Record:
    return next(one for one in records if one.status == "ok" and one.value(metric) is not None)
