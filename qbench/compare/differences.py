"""One metric of two groups of records: how far apart they are, with what certainty.

| what is measured | unit of sampling | method |
|---|---|---|
| perplexity, divergence | the window of text, paired | block bootstrap of the ratio of sums |
| their quantiles | the window of text, paired | block bootstrap of the quantile |
| right or wrong | the item, paired by its id | exact limits, at 0 McNemar's test |
| other scores | the item, paired by its id | bootstrap |
| scores of items that belong together | the cluster | bootstrap |
| times, rates, resident size | the process | Welch's t on the logarithms of their medians |
| bytes, counts | none: they are exact | the difference itself |

A relative change is estimated as the difference of logarithms; `shown` turns it into a ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.comparable import TAKE_AGAIN
from qbench.compare.estimates.estimates import FEWEST_PROCESSES, Exact, one_sample, welch
from qbench.compare.quantiles import (
    find_quantile,
    is_quantile,
    pair_quantiles,
    quantile_change,
    quantile_level,
)
from qbench.compare.series import find_series, grouped, pair_up
from qbench.compare.series_estimates import of_change, of_level
from qbench.compare.variation import variation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.estimates.bootstrap import Sampling
    from qbench.compare.estimates.estimates import Estimate
    from qbench.compare.series import Series, Unit
    from qbench.compare.series_estimates import Estimated
    from qbench.core.record import Metric, Record


_CHANCE = "so its chance error is unknown"
_LARGEST = "kl.max"
_NO_SPREAD = "no process differs from another, so that the chance in it is unknown"


@dataclass(frozen=True)
class Difference:
    """How far one metric of one item is from where it was, or, for a level, from 0."""

    new: float | None
    old: float | None
    """None for a level: the value itself is judged, not its change."""
    relative: bool
    estimate: Estimate | None
    """Of the difference, of logarithms where it is relative; None where chance is unknown."""
    method: str
    unit: Unit | None = None
    units: int = 0
    """Windows or items in common, or processes of the smaller side."""
    reason: str | None = None
    """Why there is no estimate, with the remedy."""
    short_by: int | None = None
    """Units that are lacking before there can be an estimate; None where that is not known."""

    @property
    def equal(self) -> bool:
        """Whether the two sides are the same, not only found so in what was scored."""
        return isinstance(self.estimate, Exact) and self.estimate.value == 0

    @property
    def plain(self) -> float | None:
        """The change, or the level, as it is shown; None where a side has no figure to count from.

        Known where the chance in it is not.
        """
        if self.estimate is not None:
            return self.shown(self.estimate.value)
        if self.new is None or self.old is None:
            return self.new
        if not self.relative:
            return self.new - self.old
        return self.new / self.old - 1 if self.old else None

    def ends(self, tail: float) -> tuple[float, float] | tuple[None, None]:
        """The interval that leaves out `tail` on either side; None where chance is unknown."""
        if self.estimate is None:
            return None, None
        low, high = (self.shown(self.estimate.limit(end)) for end in (tail, 1 - tail))
        return low, high

    def shown(self, value: float) -> float:
        """A value of the estimate's scale as a ratio less 1 where it is relative."""
        if not self.relative:
            return value
        return math.expm1(value) if value < 700 else math.inf

    def bound(self, amount: float) -> float:
        """A margin, as the suite states it, on the estimate's scale."""
        if not self.relative:
            return amount
        return math.log1p(amount) if amount > -1 else -math.inf


def difference(
    new: Sequence[Record], old: Sequence[Record], metric: str, *, relative: bool, sampling: Sampling
) -> Difference:
    """The change of a metric from `old` to `new`: records of one item, one a repeat.

    The two must be comparable: see `qbench.compare.comparable.find_gap`.
    """
    mine, theirs = _good(new, metric), _good(old, metric)
    values = _value(mine[0], metric), _value(theirs[0], metric)
    found = _metric(mine[0], metric)
    varies_by = variation(mine[0], found)
    if varies_by == "process":
        return _of_processes(_values(mine, metric), _values(theirs, metric), relative=relative)
    if varies_by == "nothing":
        estimate = Exact(_exact_change(values[0], values[1], relative=relative))
        return Difference(values[0], values[1], relative, estimate, "exact")
    if is_quantile(metric):
        return _of_quantiles(mine[0], theirs[0], metric, relative=relative, sampling=sampling)
    own = find_series(mine[0], metric, values[0])
    base = find_series(theirs[0], metric, values[1])
    if own is None or base is None:
        return _unknown(values[0], values[1], metric, relative=relative)
    return change_of(own, base, values, relative=relative, sampling=sampling)


def change_of(
    own: Series,
    base: Series,
    values: tuple[float, float],
    *,
    relative: bool,
    sampling: Sampling,
) -> Difference:
    """The change from the figure of `base` to that of `own`; `values` are the two figures."""
    pair = pair_up(own, base)
    if pair is None:
        reason = f"the {own.unit} of the two sides are not the same ones"
        return Difference(*values, relative, None, "paired", own.unit, reason=reason)
    own, base = pair
    change = of_change(own, base, relative=relative, sampling=sampling)
    return _made(change, *values, own.unit, len(own.sums), relative=relative)


def level(records: Sequence[Record], metric: str, *, sampling: Sampling) -> Difference:
    """The metric itself, with the certainty that its windows, items or processes give it."""
    good = _good(records, metric)
    found, value = _metric(good[0], metric), _value(good[0], metric)
    varies_by = variation(good[0], found)
    if varies_by == "process":
        values = _values(good, metric)
        lacking = FEWEST_PROCESSES - len(values)
        if lacking > 0:
            return _too_few(value, None, "processes", len(values), lacking, relative=False)
        mean = sum(values) / len(values)
        method, count = "Student's t over processes", len(values)
        if len(set(values)) == 1:
            return Difference(
                mean,
                None,
                relative=False,
                estimate=None,
                method=method,
                unit="processes",
                units=count,
                reason=_NO_SPREAD,
            )
        return _of_level(mean, one_sample(values), method, "processes", count)
    if varies_by == "nothing":
        return _of_level(value, Exact(value), "exact")
    return _level_of_sample(good[0], metric, value, sampling)


def _level_of_sample(record: Record, metric: str, value: float, sampling: Sampling) -> Difference:
    if is_quantile(metric):
        quantile = find_quantile(record, metric, value)
        if quantile is None:
            return _unknown(value, None, metric, relative=False)
        found = quantile_level(quantile, sampling)
        return _made(found, value, None, quantile.unit, quantile.units)
    own = find_series(record, metric, value)
    if own is None:
        return _unknown(value, None, metric, relative=False)
    return level_of(own, value, sampling)


def level_of(series: Series, value: float, sampling: Sampling) -> Difference:
    """The figure `value` that comes from a series, by cluster where its items have any."""
    own = grouped(series)
    return _made(of_level(own, value, sampling), value, None, own.unit, len(own.sums))


def _of_quantiles(
    new: Record, old: Record, metric: str, *, relative: bool, sampling: Sampling
) -> Difference:
    values = _value(new, metric), _value(old, metric)
    own, base = (
        find_quantile(one, metric, value) for one, value in zip((new, old), values, strict=True)
    )
    if own is None or base is None:
        return _unknown(*values, metric, relative=relative)
    pair = pair_quantiles(own, base)
    if pair is None:
        reason = f"the {own.each} of the two sides are not the same ones"
        return Difference(*values, relative, None, "paired", own.unit, reason=reason)
    change = quantile_change((pair,), relative=relative, sampling=sampling)
    return _made(change, *values, pair[0].unit, pair[0].units, relative=relative)


def _made(
    found: Estimated,
    new: float,
    old: float | None,
    unit: Unit,
    units: int,
    *,
    relative: bool = False,
) -> Difference:
    if found.short_by is not None:
        return _too_few(new, old, unit, units, found.short_by, relative=relative)
    return Difference(new, old, relative, found.estimate, found.method, unit, units, found.reason)


def _of_level(
    value: float, estimate: Estimate, method: str, unit: Unit | None = None, units: int = 0
) -> Difference:
    return Difference(
        new=value,
        old=None,
        relative=False,
        estimate=estimate,
        method=method,
        unit=unit,
        units=units,
    )


def _of_processes(new: list[float], old: list[float], *, relative: bool) -> Difference:
    method = "Welch's t over processes"
    fewest = min(len(new), len(old))
    means = sum(new) / len(new), sum(old) / len(old)
    if relative and min(*new, *old) > 0:
        # The middle of logarithms: a ratio of geometric means, which one slow process moves less.
        new, old = [math.log(value) for value in new], [math.log(value) for value in old]
        means = math.exp(sum(new) / len(new)), math.exp(sum(old) / len(old))
        method += " on the logarithms of their medians"
    if fewest < FEWEST_PROCESSES:
        lacking = FEWEST_PROCESSES - fewest
        return _too_few(means[0], means[1], "processes", fewest, lacking, relative=relative)
    if len(set(new)) == len(set(old)) == 1:
        return Difference(*means, relative, None, method, "processes", fewest, _NO_SPREAD)
    return Difference(*means, relative, welch(new, old), method, "processes", fewest)


def _too_few(
    new: float, old: float | None, unit: Unit, units: int, lacking: int, *, relative: bool
) -> Difference:
    remedy = (
        "raise the measurement's `repeats`, where it has them"
        if unit == "processes"
        else "take a longer text or a smaller window"
        if unit == "windows"
        else "raise the task's `limit`: items that share what they are about count once"
        if unit == "groups"
        else "raise the task's `limit`, the prompts' `count`, `needles` or the tuning data's `test`"
    )
    side = " a side" if unit == "processes" else ""
    reason = f"too few {unit}{side} to decide by: {units}, {lacking} more are needed; {remedy}"
    return Difference(new, old, relative, None, "none", unit, units, reason, lacking)


def _unknown(new: float, old: float | None, metric: str, *, relative: bool) -> Difference:
    if is_quantile(metric):
        reason = f"no counts of tokens by window are kept of it, {_CHANCE}; {TAKE_AGAIN}"
    else:
        reason = f"no values per window or item are kept of it, {_CHANCE}"
    if metric.endswith(_LARGEST):
        reason = "of a largest value no interval is known: a longer text only raises it"
    return Difference(new, old, relative, None, "none", reason=reason)


def _exact_change(new: float, old: float, *, relative: bool) -> float:
    if not relative:
        return new - old
    if new == old:
        return 0.0
    if new <= 0 or old <= 0:
        return math.inf if new > old else -math.inf
    ratio = new / old
    return math.log(ratio) if 0 < ratio < math.inf else math.log(new) - math.log(old)


def _good(records: Sequence[Record], metric: str) -> list[Record]:
    return [one for one in records if one.status == "ok" and one.value(metric) is not None]


def _values(records: Sequence[Record], metric: str) -> list[float]:
    return [_value(record, metric) for record in records]


def _value(record: Record, metric: str) -> float:
    found = _metric(record, metric)
    return math.nan if found.value is None else found.value


def _metric(record: Record, metric: str) -> Metric:
    found = record.metric(metric)
    if found is None:
        raise LookupError(f"record {record.key} has no metric {metric}")
    return found
