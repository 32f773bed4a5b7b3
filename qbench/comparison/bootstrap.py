"""The bootstrap: a statistic of sums over units, such as windows of text, and its certainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from qbench.comparison.statistics import FEWEST_UNITS, Exact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from qbench.comparison.statistics import Estimate

    Floats = npt.NDArray[np.float64]
    Statistic = Callable[[list[Floats]], Floats]

RESAMPLES = 10_000
"""Bootstrap resamples unless said otherwise: a limit at 0.5 % still rests on 50 of them."""
SEED = 0
"""Seed of the resampling: the same data give the same interval."""

_NORMAL = NormalDist()
_MOST_NUMBERS = 2_000_000
"""Resampled numbers held at once: 16 MB."""
_FEW_CATEGORIES = 16
"""Distinct units up to which their counts are drawn rather than the units."""


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
    out of the figure itself: see `Sparse`.

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


class Sparse(NamedTuple):
    """How changes are taken of which too few are not 0.

    A bootstrap of a few units that differ closes its interval on them, and on none at 0. Two more
    units in each direction, as far apart as any, keep it open (as Agresti and Caffo, American
    Statistician 2000, for two shares), and Student's t knows how few have told of the spread.
    """

    size: float
    """How far apart the units to be added are."""
    degrees: float
    """Degrees of freedom."""


def sparse(changes: Sequence[float], span: float) -> Sparse | None:
    """None where enough units differ; `span` is how far apart they can be, should none differ."""
    differing = sum(map(bool, changes))
    if differing >= FEWEST_UNITS:
        return None
    if not differing:
        return Sparse(span, len(changes) - 1.0)
    return Sparse(max(map(abs, changes)), float(differing))
