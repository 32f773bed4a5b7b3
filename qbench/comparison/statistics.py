"""Intervals, tests and power for paired data: numbers in, numbers out, no records.

An `Estimate` is a figure with its confidence distribution: `confidence_below(bound)` is the
confidence that the true value lies below `bound`, and at the same time the p-value of the one-sided
test of "it is at most `bound`". `limit(share)` is its inverse: `limit(0.05)` to `limit(0.95)` is
the 90 % interval. Every interval, test and verdict of qbench is read off these two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Statistic = Callable[[list[Floats]], Floats]

RESAMPLES = 10_000
"""Bootstrap resamples unless said otherwise: a limit at 0.5 % still rests on 50 of them."""
SEED = 0
"""Seed of the resampling: the same data give the same interval."""
FEWEST_UNITS = 20
"""Below this many windows or items a bootstrap interval is too narrow to decide by."""
FEWEST_PROCESSES = 5
"""Processes a side below which a difference of latencies is not decided."""
POWER = 0.8
"""The chance of a decision that `units_needed` and `detectable_change` are stated for."""

_NORMAL = NormalDist()
_MOST_NUMBERS = 2_000_000
"""Resampled numbers held at once: 16 MB."""
_FEW_CATEGORIES = 16
"""Distinct units up to which their counts are drawn rather than the units."""


class Estimate(Protocol):
    """A figure with its confidence distribution."""

    @property
    def value(self) -> float:
        """The figure itself."""

    @property
    def standard_error(self) -> float:
        """Its standard deviation over samples of this size."""

    def limit(self, share: float) -> float:
        """The point that the true value lies below with this confidence, 0 < share < 1."""

    def confidence_below(self, bound: float) -> float:
        """Confidence that the true value lies below the bound, 0 to 1."""


@dataclass(frozen=True)
class Exact:
    """A figure without chance in it: bytes, or outputs that are the same in every unit."""

    value: float
    standard_error: float = 0.0

    def limit(self, share: float) -> float:
        """The value itself."""
        return self.value

    def confidence_below(self, bound: float) -> float:
        """Certain; half on the bound itself counts as not beyond it on either side."""
        return 0.5 if self.value == bound else float(self.value < bound)


@dataclass(frozen=True)
class Student:
    """A figure whose error over its standard error follows Student's t."""

    value: float
    standard_error: float
    degrees: float
    """Degrees of freedom."""

    def limit(self, share: float) -> float:
        """Quantile of the shifted and scaled t."""
        from scipy.special import stdtrit

        return self.value + self.standard_error * float(stdtrit(self.degrees, share))

    def confidence_below(self, bound: float) -> float:
        """Of the shifted and scaled t."""
        from scipy.special import stdtr

        return float(stdtr(self.degrees, (bound - self.value) / self.standard_error))


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A figure with its resamples, corrected for bias and skewness (BCa).

    BCa (Efron, Better Bootstrap Confidence Intervals, JASA 1987) rather than plain percentiles,
    because verdicts rest on one-sided limits: BCa's are off by O(1/n) where percentiles are off by
    O(1/sqrt n), which shows for skewed sums such as a divergence's.
    """

    value: float
    standard_error: float
    resamples: Floats = field(repr=False)
    """Sorted."""
    bias: float
    """z0: the normal quantile of the share of resamples below the figure they resample."""
    acceleration: float
    """A sixth of the skewness of the jackknife's values."""

    def limit(self, share: float) -> float:
        """The resamples' quantile at the corrected share."""
        import numpy as np

        w = self.bias + _NORMAL.inv_cdf(share)
        slope = 1 - self.acceleration * w
        corrected = _NORMAL.cdf(self.bias + w / slope) if slope > 0 else float(w > 0)
        return float(np.quantile(self.resamples, corrected))

    def confidence_below(self, bound: float) -> float:
        """The share at which `limit` is the bound.

        Beyond all resamples the normal approximation takes over, at most one in their number.
        """
        import numpy as np

        count = len(self.resamples)
        left = int(np.searchsorted(self.resamples, bound, side="left"))
        right = int(np.searchsorted(self.resamples, bound, side="right"))
        share = (left + right) / 2 / count
        if not 0 < share < 1:
            tail = math.erfc(abs(bound - self.value) / self.standard_error / math.sqrt(2)) / 2
            tail = min(tail, 1 / (count + 1))
            return tail if share == 0 else 1 - tail
        w = _NORMAL.inv_cdf(share) - self.bias
        slope = 1 + self.acceleration * w
        return _NORMAL.cdf(w / slope - self.bias) if slope > 0 else float(w > 0)


def bootstrap(
    columns: Sequence[Sequence[float]],
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    pseudo_units: Sequence[Sequence[float]] = (),
) -> Estimate:
    """Resamples whole units, such as windows, and computes a statistic of the columns' sums.

    `columns` are k sequences of n numbers, one a unit; a pair of measurements of one unit is two
    columns, so that pairing is kept. `statistic` takes k arrays of sums, of shape (m,), and gives m
    values: it works on m resamples at once.

    `pseudo_units` are m sequences of k numbers that are resampled beside the real units and left
    out of the figure itself. For outcomes of 0 and 1 one more pair in each direction keeps the
    interval from closing on a few differing pairs (Bonett and Price, Adjusted Wald Confidence
    Interval for a Difference of Binomial Proportions Based on Paired Data, JEBS 2012).

    Raises `ValueError` where the statistic is not finite for every resample: a ratio or a logarithm
    of sums that can be 0.
    """
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        data = np.asarray(columns, dtype=np.float64)
        value = float(statistic([np.array([column.sum()]) for column in data])[0])
        if pseudo_units:
            added = np.asarray(pseudo_units, dtype=np.float64).T
            data = np.concatenate([data, added], axis=1)
        sums = data.sum(axis=1, keepdims=True)
        centre = float(statistic(list(sums))[0])
        jackknife = statistic(list(sums - data))
        drawn = np.sort(np.concatenate([statistic(part) for part in _sums(data, resamples, seed)]))
    if not (math.isfinite(value) and np.isfinite(drawn).all() and np.isfinite(jackknife).all()):
        raise ValueError("the statistic is not finite for every resample")
    spread = float(drawn.std(ddof=1))
    if spread <= 1e-14 * max(1.0, abs(value)):
        return Exact(value)
    below = (np.searchsorted(drawn, centre, "left") + np.searchsorted(drawn, centre, "right")) / 2
    bias = _NORMAL.inv_cdf(min(max(float(below), 0.5), resamples - 0.5) / resamples)
    away = jackknife.mean() - jackknife
    squares = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    # The figure of the real units keeps its place: what pseudo units shift is taken off again.
    return Bootstrap(value, spread, drawn + (value - centre), bias, acceleration)


def _sums(data: Floats, resamples: int, seed: int) -> list[list[Floats]]:
    """The columns' sums over each resample, in parts that fit into memory."""
    import numpy as np

    random = np.random.default_rng(seed)
    units = data.shape[1]
    kinds, counts = np.unique(data, axis=1, return_counts=True)
    if len(counts) <= _FEW_CATEGORIES:
        drawn = random.multinomial(units, counts / units, size=resamples)
        return [[drawn @ kind for kind in kinds]]
    parts: list[list[Floats]] = []
    step = max(1, _MOST_NUMBERS // units)
    for start in range(0, resamples, step):
        chosen = random.integers(0, units, (min(step, resamples - start), units))
        parts.append([column[chosen].sum(axis=1) for column in data])
    return parts


def welch(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Difference of two means, first less second, each of at least two independent values.

    Welch's t with the degrees of freedom of Satterthwaite: with five processes a side a bootstrap
    of five numbers is far too narrow, and the two sides need not vary alike.
    """
    import numpy as np

    means = [float(np.mean(side)) for side in (first, second)]
    errors = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    difference, squared = means[0] - means[1], sum(errors)
    if squared == 0:
        return Exact(difference)
    sizes = (len(first), len(second))
    shares = (error**2 / (size - 1) for error, size in zip(errors, sizes, strict=True))
    return Student(difference, math.sqrt(squared), squared**2 / sum(shares))


def one_sample(values: Sequence[float]) -> Estimate:
    """Mean of at least two independent values, with Student's t."""
    import numpy as np

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Student(mean, error, len(values) - 1.0) if error else Exact(mean)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact p-value, two-sided, of the pairs that differ (Psychometrika 1947).

    `gained` are items that only the first answers rightly, `lost` those that only the second does:
    under no difference each is as likely as the other.
    """
    from scipy.special import bdtr

    pairs = gained + lost
    return min(1.0, 2 * float(bdtr(min(gained, lost), pairs, 0.5))) if pairs else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those at most alpha may be claimed together, with error at most alpha.

    The k-th smallest of m is multiplied by m - k + 1 and never falls below a smaller one's (Holm,
    A Simple Sequentially Rejective Multiple Test Procedure, Scand J Stat 1979). It holds whatever
    the dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def two_sided(estimate: Estimate) -> float:
    """The p-value of "the true value is 0"; for an exact figure 0, or 1 if it is 0."""
    below = estimate.confidence_below(0.0)
    return min(1.0, 2 * min(below, 1 - below))


def equivalence(estimate: Estimate, low: float, high: float) -> float:
    """The p-value of "the true value is outside low to high": two one-sided tests, the larger.

    It is at most alpha exactly when the whole (1 - 2 alpha) interval lies inside (Schuirmann, J
    Pharmacokinet Biopharm 1987).
    """
    return max(estimate.confidence_below(low), 1 - estimate.confidence_below(high))


def detectable_change(estimate: Estimate, *, alpha: float, power: float = POWER) -> float:
    """How far from a bound the true value must lie for `power` chance of a decision.

    (z(1 - alpha) + z(power)) standard errors: so much margin lets an unchanged model hold, and so
    much beyond the margin breaks it. Where the figure follows Student's t, so do the quantiles.
    """
    return (_quantile(estimate, 1 - alpha) + _quantile(estimate, power)) * estimate.standard_error


def units_needed(
    estimate: Estimate, units: int, bound: float, *, alpha: float, power: float = POWER
) -> int | None:
    """Units for `power` chance of a decision about the bound, were the figure the true value.

    The standard error falls with the root of the units. None where the figure is the bound itself,
    or so near it that the number says nothing.
    """
    distance = abs(estimate.value - bound)
    if distance == 0:
        return None
    needed = units * (detectable_change(estimate, alpha=alpha, power=power) / distance) ** 2
    return math.ceil(needed) if needed < 1e9 else None


def _quantile(estimate: Estimate, share: float) -> float:
    if isinstance(estimate, Student):
        from scipy.special import stdtrit

        return float(stdtrit(estimate.degrees, share))
    return _NORMAL.inv_cdf(share)
