"""The change of one metric over several trainings that differ in their seed alone.

Two things are chance here: which items were scored, and which seeds were trained with. The figure
is the mean over the seeds of the paired change over the items. Its variance is the sum of two:

    items    bootstrap of the seeds' mean, as for a single pair of records
    seeds    s²/S, with s the standard deviation of the S seeds' changes

What varies by item and seed together is in both: the interval is a little too wide rather than too
narrow. Degrees of freedom by Satterthwaite (Biometrics Bulletin 1946). With one seed the interval
is that of the items, and says nothing of another training.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap, find_gap
from qbench.compare.differences import Difference, difference
from qbench.compare.estimates.bootstrap import Bootstrap, sparse
from qbench.compare.estimates.estimates import Exact, Student
from qbench.compare.quantiles import (
    change_of,
    find_quantile,
    is_quantile,
    pair_quantiles,
    quantile_change,
)
from qbench.compare.series import find_series, pair_up
from qbench.compare.series_estimates import resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.estimates.bootstrap import Floats, Sampling
    from qbench.compare.series import Series
    from qbench.core.record import Record

Pair = tuple["Sequence[Record]", "Sequence[Record]"]
"""Records of one item of a cell, one a repeat, and those that they are compared with."""


def difference_over_seeds(
    pairs: Sequence[Pair],
    metric: str,
    *,
    relative: bool,
    sampling: Sampling,
    same_run: bool = True,
) -> Difference | Gap:
    """The mean change of a metric over the pairs, one a seed; what bars it where all are barred.

    Pairs that are barred are left out. The metric is a mean over items or windows, for a relative
    change the exponential of one, or a quantile. Raises ValueError for no pairs.
    """
    if not pairs:
        raise ValueError("a change needs at least one pair of records")
    barred = [find_gap(new, old, metric, same_run=same_run) for new, old in pairs]
    free = [pair for pair, gap in zip(pairs, barred, strict=True) if gap is None]
    if not free:
        return next(gap for gap in barred if gap is not None)
    first = difference(*free[0], metric, relative=relative, sampling=sampling)
    if len(free) == 1 or first.estimate is None:
        return first
    if is_quantile(metric):
        return _pooled_quantiles(free, metric, first, sampling)
    series = [_series(pair, metric, relative=relative) for pair in free]
    known = [one for one in series if one is not None]
    if len(known) < len(free) or len({(own.weights, own.ids) for own, _ in known}) > 1:
        return _not_pooled(first)
    return _pooled(known, first, sampling)


def _not_pooled(first: Difference) -> Difference:
    reason = f"the seeds do not all hold finite values of the same {first.unit}"
    return replace(first, estimate=None, reason=reason)


def _pooled_quantiles(
    pairs: Sequence[Pair], metric: str, first: Difference, sampling: Sampling
) -> Difference:
    found = []
    for pair in pairs:
        records = [next(one for one in side if one.value(metric) is not None) for side in pair]
        own, base = (find_quantile(one, metric, one.value(metric) or 0.0) for one in records)
        paired = None if own is None or base is None else pair_quantiles(own, base)
        if paired is None:
            return _not_pooled(first)
        found.append(paired)
    if len({(own.tokens, own.documents) for own, _ in found}) > 1:
        return _not_pooled(first)
    relative = first.relative
    if relative and min(side.value for pair in found for side in pair) <= 0:
        return _not_pooled(first)
    estimate = quantile_change(tuple(found), relative=relative, sampling=sampling).estimate
    if estimate is None:
        return _not_pooled(first)
    degrees = estimate.degrees if isinstance(estimate, Bootstrap) else 1.0
    changes = [change_of(own, base, relative=relative) for own, base in found]
    sides = [[side.value for side in column] for column in zip(*found, strict=True)]
    if relative:
        sides = [[math.log(value) for value in side] for side in sides]
    return _with_seeds(first, sides, changes, (estimate.standard_error**2, degrees))


def _pooled(
    pairs: Sequence[tuple[Series, Series]], first: Difference, sampling: Sampling
) -> Difference:
    weights, factor = pairs[0][0].weights, pairs[0][0].factor
    total_weight = math.fsum(weights)
    sides = [
        [factor * math.fsum(side.sums) / total_weight for side in column]
        for column in zip(*pairs, strict=True)
    ]
    changes = [own - base for own, base in zip(*sides, strict=True)]
    try:
        of_items = _of_items(tuple(pairs), sampling)
    except ValueError:
        of_items = None
    return _with_seeds(first, sides, changes, of_items)


def _with_seeds(
    first: Difference,
    sides: Sequence[Sequence[float]],
    changes: Sequence[float],
    of_items: tuple[float, float] | None,
) -> Difference:
    """The mean over the seeds, given the items' variance with its degrees of freedom.

    The figures of both sides, by seed, are logarithms where the change is relative.
    """
    means = [statistics.fmean(side) for side in sides]
    new, old = map(math.exp, means) if first.relative else means
    value = statistics.fmean(changes)
    made = replace(first, new=new, old=old, method=f"{first.method}, mean of {len(changes)} seeds")
    if of_items is None:
        return replace(made, estimate=None, reason=f"some resamples of the {first.unit} are empty")
    items_variance, degrees = of_items
    seeds_variance = statistics.variance(changes) / len(changes)
    total = items_variance + seeds_variance
    shares = items_variance**2 / degrees + seeds_variance**2 / (len(changes) - 1)
    if shares == 0:
        return replace(made, estimate=Exact(value))
    return replace(made, estimate=Student(value, math.sqrt(total), total**2 / shares))


@lru_cache(maxsize=256)
def _of_items(pairs: tuple[tuple[Series, Series], ...], sampling: Sampling) -> tuple[float, float]:
    """Variance of the seeds' mean change, were other items drawn, and its degrees of freedom.

    The change is linear in sums. It is 0 where all is the same to the last bit.
    """
    own, _ = pairs[0]
    changes = [
        statistics.fmean(one)
        for one in zip(*(_changes(own, base) for own, base in pairs), strict=True)
    ]
    if not own.scores and all(mine.sums == theirs.sums for mine, theirs in pairs):
        return 0.0, 1.0
    few = sparse(changes, max(side.span for pair in pairs for side in pair))
    pseudo = []
    if few is not None:
        weight = math.fsum(own.weights) / len(own.weights)
        pseudo = [(few.size, weight), (-few.size, weight)] * 2

    def statistic(sums: list[Floats]) -> Floats:
        return own.factor * sums[0] / sums[1]

    estimate = resample([changes, own.weights], statistic, own, pseudo, sampling)
    degrees = len(changes) - 1.0
    if few is not None:
        degrees = few.degrees
    elif isinstance(estimate, Bootstrap):
        degrees = estimate.degrees
    return estimate.standard_error**2, degrees


def _changes(own: Series, base: Series) -> list[float]:
    return [mine - theirs for mine, theirs in zip(own.sums, base.sums, strict=True)]


def _series(pair: Pair, metric: str, *, relative: bool) -> tuple[Series, Series] | None:
    """Both sides' series, the other's in this one's order; None where no change is linear in it."""
    found = []
    for records in pair:
        record = next(one for one in records if one.value(metric) is not None)
        found.append(find_series(record, metric, record.value(metric) or 0.0))
    own, base = found
    if own is None or base is None or own.link != ("exp" if relative else "mean"):
        return None
    paired = pair_up(own, base)
    if paired is None:
        return None
    own, base = paired
    return (own, base) if all(map(math.isfinite, (*own.sums, *base.sums))) else None
