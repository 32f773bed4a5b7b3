"""Outcomes of right and wrong: exact confidence in a share, and in how far two shares are apart.

A normal approximation or a bootstrap closes its interval where no outcome was seen to differ: from
20 items that all came out alike it would follow that every item does. Exact limits stay open by the
chance of having seen nothing: for a share of 0 in n that is 1 - alpha^(1/n), 14 % for 20 items.

Of a count of successes the two ends rest on two beta distributions (Clopper and Pearson, Biometrika
1934), so that each estimate here has two confidence distributions, one for each end; what lies
between them is not decided either way. Counts need not be whole: that is how an estimate is scaled
to another number of trials.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_NODES = 128
"""Of the quadrature over the share of gains among the pairs that differ."""
_TAIL = 1e-12
"""Of that share's distribution, left out of the quadrature at either end."""
_HALVINGS = 50
_LOGARITHMS = 50.0
"""As far below 0 as the logarithm of a ratio is looked for."""


class BinaryEstimate(ABC):
    """What the estimates here read off their two confidence distributions."""

    trials: float

    @property
    @abstractmethod
    def value(self) -> float:
        """The figure itself."""

    @property
    @abstractmethod
    def standard_error(self) -> float:
        """Its standard deviation over samples of this size; above 0 whatever was seen."""

    @abstractmethod
    def upper(self, bound: float) -> float:
        """Confidence that the upper end lies below the bound."""

    @abstractmethod
    def lower(self, bound: float) -> float:
        """Confidence that the lower end lies below the bound."""

    @abstractmethod
    def scaled(self, factor: float) -> BinaryEstimate:
        """The same outcomes over so many times the trials."""

    @abstractmethod
    def finds(self, change: float, *, alpha: float, power: float) -> bool:
        """Whether a true change of this size, up or down, is found with a chance of `power`."""

    def confidence_below(self, bound: float) -> float:
        """By the end that the bound lies beyond; one half between the two."""
        return max(min(self.lower(bound), 0.5), self.upper(bound))

    def limit(self, share: float) -> float:
        """Of the upper end for a share above one half, else of the lower."""
        return _limit(self, share)

    def detectable(self, *, alpha: float, power: float) -> float:
        """The smallest change that is found; infinite where none is with so few trials."""
        low, high = 0.0, self.range[1] - self.range[0]
        if not self.finds(high, alpha=alpha, power=power):
            return math.inf
        for _ in range(_HALVINGS // 2):
            middle = (low + high) / 2
            found = self.finds(middle, alpha=alpha, power=power)
            low, high = (low, middle) if found else (middle, high)
        return high

    def decides(self, bound: float, *, alpha: float, power: float) -> bool:
        """Whether the bound is excluded with a chance of `power`, were the figure the true one."""
        margin = NormalDist().inv_cdf(power) * self.standard_error
        if bound > self.value:
            return 1 - self.confidence_below(bound - margin) <= alpha
        return self.confidence_below(bound + margin) <= alpha

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that there can be."""


@dataclass(frozen=True)
class Proportion(BinaryEstimate):
    """The share of trials that came out right, with Clopper and Pearson's limits."""

    right: float
    trials: float

    @property
    def value(self) -> float:
        """Right ones over all."""
        return self.right / self.trials

    @property
    def standard_error(self) -> float:
        """Of two trials more in each direction (Agresti and Coull, American Statistician 1998)."""
        share = (self.right + 2) / (self.trials + 4)
        return math.sqrt(share * (1 - share) / (self.trials + 4))

    def upper(self, bound: float) -> float:
        """Of a beta distribution with one right more."""
        return _beta(self.right + 1, self.trials - self.right, bound)

    def lower(self, bound: float) -> float:
        """Of a beta distribution with one wrong more."""
        return _beta(self.right, self.trials - self.right + 1, bound)

    def scaled(self, factor: float) -> Proportion:
        """The same share of so many times the trials."""
        return Proportion(self.right * factor, self.trials * factor)

    def finds(self, change: float, *, alpha: float, power: float) -> bool:
        """Whether the share so far up and so far down is excluded, where there is room for it."""
        ends = (self.value - change, self.value + change)
        inside = [end for end in ends if 0 <= end <= 1]
        return all(self.decides(end, alpha=alpha, power=power) for end in inside)

    @property
    def range(self) -> tuple[float, float]:
        """All shares."""
        return 0.0, 1.0


@dataclass(frozen=True)
class PairedProportions(BinaryEstimate):
    """How far apart two shares of the same trials are: gained less lost, over all trials.

    The share of gains among the pairs that differ and the share of pairs that differ each have
    Clopper and Pearson's confidence distributions; their product is taken so that each end is the
    farther one (melding: Fay and Lumbard, Confidence Intervals for Difference in Proportions for
    Matched Pairs Compatible with Exact McNemar's or Sign Tests, Statistics in Medicine 2021). At 0
    the p-value is McNemar's exact one.
    """

    gained: float
    """Trials that only the first got right."""
    lost: float
    """Trials that only the second got right."""
    trials: float
    span: float = 1.0
    """How far a trial can move, for scores of another range than 0 to 1."""
    base: float | None = None
    """The second share, where the estimate is the logarithm of the first over it."""

    @property
    def value(self) -> float:
        """The first share less the second, or the logarithm of their ratio."""
        return self._figure((self.gained - self.lost) / self.trials)

    @property
    def standard_error(self) -> float:
        """Of one pair more in each direction, so that it is not 0 where no pair differs.

        Bonett and Price (J Educational and Behavioral Statistics 2012).
        """
        gained, lost, trials = self.gained + 1, self.lost + 1, self.trials + 2
        error = math.sqrt(gained + lost - (gained - lost) ** 2 / trials) / trials
        return self.span * error if self.base is None else error / self.base

    def upper(self, bound: float) -> float:
        """Of the melded distribution of the upper end."""
        return _melded(self.gained, self.lost, self.trials, self._apart(bound))

    def lower(self, bound: float) -> float:
        """The upper end's with the sides changed."""
        return 1 - _melded(self.lost, self.gained, self.trials, -self._apart(bound))

    def scaled(self, factor: float) -> PairedProportions:
        """The same shares of so many times the trials."""
        return replace(
            self,
            gained=self.gained * factor,
            lost=self.lost * factor,
            trials=self.trials * factor,
        )

    def finds(self, change: float, *, alpha: float, power: float) -> bool:
        """Whether so many more gains, or losses, exclude the unchanged difference."""
        size = change / self.span if self.base is None else change * self.base
        moved = min(size * self.trials, self.trials - self.gained - self.lost)
        spread = math.sqrt(self.gained + self.lost + moved - moved**2 / self.trials)
        seen = moved - NormalDist().inv_cdf(power) * spread
        if seen <= 0:
            return False
        more = replace(self, gained=self.gained + seen)
        fewer = replace(self, lost=self.lost + seen)
        return more.lower(self.value) <= alpha and 1 - fewer.upper(self.value) <= alpha

    def _figure(self, apart: float) -> float:
        """The estimate's value for shares that are so far apart."""
        if self.base is None:
            return self.span * apart
        return math.log1p(apart / self.base) if apart > -self.base else -math.inf

    def _apart(self, figure: float) -> float:
        """The inverse of `_figure`."""
        return figure / self.span if self.base is None else math.expm1(figure) * self.base

    @property
    def range(self) -> tuple[float, float]:
        """From all lost to all gained, or the logarithms of what that makes of the base."""
        if self.base is None:
            return -self.span, self.span
        return -_LOGARITHMS, math.log1p(1 / self.base)


@lru_cache(maxsize=1024)
def _limit(estimate: BinaryEstimate, share: float) -> float:
    """By halving; several tables of a report ask for the same ones."""
    end = estimate.upper if share > 0.5 else estimate.lower
    lowest, highest = low, high = estimate.range
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if end(middle) < share else (low, middle)
    if lowest in (low, high) or highest in (low, high):
        return lowest if low == lowest else highest
    return (low + high) / 2


def _melded(gained: float, lost: float, trials: float, bound: float) -> float:
    """Confidence that the upper end of a difference of shares lies below the bound.

    The end is T (2 B - 1): B ~ beta(gained + 1, lost) is the share of gains, and T the share of
    pairs that differ, as high as it may be where there are more gains and as low where there are
    more losses.
    """
    import numpy as np

    differing = gained + lost
    shares, weights = _shares_of_gains(gained, lost)
    slope = 2 * shares - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(bound / slope)
    if bound > 0:
        high = _beta_many(differing + 1, trials - differing, share)
        below = np.where(slope > 0, high, 1.0)
    elif bound < 0:
        low = 1 - _beta_many(differing, trials - differing + 1, share)
        below = np.where(slope < 0, low, 0.0)
    else:
        return _beta(gained + 1, lost, 0.5)
    return min(1.0, float(np.dot(weights, below)))


@lru_cache(maxsize=256)
def _shares_of_gains(gained: float, lost: float) -> tuple[Floats, Floats]:
    """Points and weights of a quadrature over beta(gained + 1, lost), on either side of 1/2."""
    import numpy as np
    from scipy.special import betaincinv, betaln

    if lost <= 0:
        return np.array([1.0]), np.array([1.0])
    a, b = gained + 1, lost
    first, last = (float(betaincinv(a, b, tail)) for tail in (_TAIL, 1 - _TAIL))
    edges = [first, 0.5, last] if first < 0.5 < last else [first, last]
    nodes, weights = _legendre()
    points = [(low + high + (high - low) * nodes) / 2 for low, high in pairwise(edges)]
    parts = [(high - low) / 2 * weights for low, high in pairwise(edges)]
    shares = np.concatenate(points)
    density = np.exp((a - 1) * np.log(shares) + (b - 1) * np.log1p(-shares) - betaln(a, b))
    made = np.concatenate(parts) * density
    return shares, made / made.sum()


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def _beta(a: float, b: float, bound: float) -> float:
    import numpy as np

    return float(_beta_many(a, b, np.array([bound]))[0])


def _beta_many(a: float, b: float, bounds: Floats) -> Floats:
    """The distribution function; all at 0 where a is 0, all at 1 where b is."""
    import numpy as np
    from scipy.special import betainc

    if a <= 0:
        return (bounds >= 0).astype(np.float64)
    if b <= 0:
        return (bounds >= 1).astype(np.float64)
    found: Floats = betainc(a, b, np.clip(bounds, 0.0, 1.0))
    return found
