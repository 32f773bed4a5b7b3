"""Intervals, tests and power for paired data: numbers in, numbers out, no records.

An `Estimate` is a figure with its confidence distribution: `confidence_below(bound)` is the
confidence that the true value lies below `bound`, and at the same time the p-value of the one-sided
test of "it is at most `bound`". `limit(share)` is its inverse: `limit(0.05)` to `limit(0.95)` is
the 90 % interval. Every interval, test and verdict of qbench is read off these two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qbench.compare.estimates import student

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_UNITS = 20
"""Below this many windows or items a bootstrap interval is too narrow to decide by."""
FEWEST_PROCESSES = 5
"""Processes a side below which a difference of latencies is not decided."""


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
        return self.value + self.standard_error * student.quantile(self.degrees, share)

    def confidence_below(self, bound: float) -> float:
        """Of the shifted and scaled t."""
        t = (bound - self.value) / self.standard_error
        return student.distribution(self.degrees, t)


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
