"""What can be found with the units there are, and how many more would decide."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from qbench.compare.estimates import student
from qbench.compare.estimates.binary import BinaryEstimate
from qbench.compare.estimates.bootstrap import Bootstrap
from qbench.compare.estimates.estimates import Student

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.compare.estimates.estimates import Estimate

POWER = 0.8
"""The chance of a decision that everything here is stated for."""
_MOST_UNITS = 1e9
"""More than these say nothing."""


def detectable_change(estimate: Estimate, *, alpha: float, power: float = POWER) -> float:
    """How far from a bound the true value must lie for `power` chance of a decision.

    (z(1 - alpha) + z(power)) standard errors: so much margin lets an unchanged model hold, and so
    much beyond the margin breaks it. Quantiles are Student's where there are degrees of freedom;
    outcomes of right and wrong have limits of their own, and infinity where there are too few.
    """
    if isinstance(estimate, BinaryEstimate):
        return estimate.detectable(alpha=alpha, power=power)
    return (_quantile(estimate, 1 - alpha) + _quantile(estimate, power)) * estimate.standard_error


def units_needed(
    estimate: Estimate, units: int, bound: float, *, alpha: float, power: float = POWER
) -> int | None:
    """Units for `power` chance of a decision about the bound, were the figure the true value.

    None where the figure is the bound itself, or so near it that the number says nothing.
    """
    if isinstance(estimate, BinaryEstimate):
        return _fewest(
            units,
            lambda factor: estimate.scaled(factor).decides(bound, alpha=alpha, power=power),
        )
    return units_to_find(estimate, units, estimate.value - bound, alpha=alpha, power=power)


def units_to_find(
    estimate: Estimate, units: int, change: float, *, alpha: float, power: float = POWER
) -> int | None:
    """Units with which a change of this size is the detectable one; None as in `units_needed`.

    The standard error falls with the root of the units.
    """
    if change == 0:
        return None
    if isinstance(estimate, BinaryEstimate):
        return _fewest(
            units,
            lambda factor: estimate.scaled(factor).finds(abs(change), alpha=alpha, power=power),
        )
    needed = units * (detectable_change(estimate, alpha=alpha, power=power) / change) ** 2
    return math.ceil(needed) if needed < _MOST_UNITS else None


def _fewest(units: int, enough: Callable[[float], bool]) -> int | None:
    """The fewest units, as a multiple of those there are, that are enough."""
    low, high = 0, 1
    while not enough(high / units):
        low, high = high, 2 * high
        if high > _MOST_UNITS:
            return None
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle / units) else (middle, high)
    return high


def _quantile(estimate: Estimate, share: float) -> float:
    if isinstance(estimate, Student | Bootstrap):
        return student.quantile(estimate.degrees, share)
    return NormalDist().inv_cdf(share)
