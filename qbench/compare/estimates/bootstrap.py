"""The bootstrap: a statistic of sums over units, such as windows of text, and its certainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

from qbench.compare.estimates import student
from qbench.compare.estimates.blocks import block_length
from qbench.compare.estimates.estimates import FEWEST_UNITS, Exact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from qbench.compare.estimates.estimates import Estimate

    Floats = npt.NDArray[np.float64]
    Statistic = Callable[[list[Floats]], Floats]

RESAMPLES = 10_000
"""Bootstrap resamples unless said otherwise: a limit at 0.5 % still rests on 50 of them."""
SEED = 0
"""Seed of the resampling: the same data give the same interval."""


@dataclass(frozen=True)
class Sampling:
    """How intervals are made."""

    alpha: float = 0.05
    """Error of each one-sided limit: 0.05 makes limits of 95 % and intervals of 90 %."""
    resamples: int = RESAMPLES
    seed: int = SEED


_NORMAL = NormalDist()
_MOST_NUMBERS = 2_000_000
"""Resampled numbers held at once: 16 MB."""
_FEW_CATEGORIES = 16
"""Distinct units up to which their counts are drawn rather than the units."""
_FARTHEST = 3.0
"""Standard errors up to which the resamples tell how far a limit is: 13 of 10,000 lie beyond."""
_FLATTEST = 0.1
"""Least slope of BCa's correction, which turns back for figures that a few units make."""
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A figure with its resamples, corrected for bias, skewness (BCa) and few units (Student's t).

    BCa (Efron, Better Bootstrap Confidence Intervals, JASA 1987) rather than plain percentiles,
    because verdicts rest on one-sided limits: BCa's are off by O(1/n) where percentiles are off by
    O(1/sqrt n), which shows for skewed sums such as a divergence's. Of few units, or blocks of
    units, the spread is itself uncertain: a normal quantile becomes Student's.
    """

    value: float
    standard_error: float
    resamples: Floats = field(repr=False)
    """Sorted."""
    bias: float
    """z0: the normal quantile of the share of resamples below the figure they resample."""
    acceleration: float
    """A sixth of the skewness of the jackknife's values."""
    degrees: float
    """Degrees of freedom: the units, or blocks of them, less 1."""

    def limit(self, share: float) -> float:
        """The resamples' quantile at the corrected share; a straight line beyond 3 errors."""
        z = student.quantile(self.degrees, share)
        if abs(z) <= _FARTHEST:
            return self._at(z)
        end = self._at(math.copysign(_FARTHEST, z))
        return self.value + (end - self.value) * abs(z) / _FARTHEST

    def confidence_below(self, bound: float) -> float:
        """The share at which `limit` is the bound."""
        import numpy as np

        ends = self._at(-_FARTHEST), self._at(_FARTHEST)
        if ends[0] < bound < ends[1]:
            left, right = (np.searchsorted(self.resamples, bound, side) for side in _SIDES)
            share = float(left + right) / 2 / len(self.resamples)
            w = _NORMAL.inv_cdf(share) - self.bias
            z = w / max(1 + self.acceleration * w, _FLATTEST) - self.bias
            z = min(max(z, -_FARTHEST), _FARTHEST)
        else:
            end = ends[0] if bound <= ends[0] else ends[1]
            z = _FARTHEST * (bound - self.value) / (abs(end - self.value) or self.standard_error)
        return student.distribution(self.degrees, z)

    def _at(self, z: float) -> float:
        """The resamples' quantile that BCa puts so many standard errors away."""
        import numpy as np

        w = self.bias + z
        slope = max(1 - self.acceleration * w, _FLATTEST)
        return float(np.quantile(self.resamples, _NORMAL.cdf(self.bias + w / slope)))


def bootstrap(
    columns: Sequence[Sequence[float]],
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    pseudo_units: Sequence[Sequence[float]] = (),
    ordered: bool = False,
) -> Estimate:
    """Resamples whole units, such as windows, and computes a statistic of the columns' sums.

    `columns` are k sequences of n numbers, one a unit; a pair of measurements of one unit is two
    columns, so that pairing is kept. `statistic` takes k arrays of sums, of shape (m,), and gives m
    values: it works on m resamples at once.

    `ordered` units follow each other, as the windows of a text do: blocks of neighbours are
    resampled, the last unit being the first one's neighbour (Politis and Romano, A Circular Block
    Resampling Procedure for Stationary Data, 1992), their length chosen from the series.

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
        if not (math.isfinite(value) and np.isfinite(jackknife).all()):
            raise ValueError("the statistic is not finite for every resample")
        length = 1
        if ordered:
            length = block_length(jackknife)
            data = blocks_of(data, length)
            jackknife = statistic(list(sums - data))
        units = data.shape[1]
        count = math.ceil(units / length)
        parts = _sums(data.tobytes(), len(data), count, resamples, seed)
        drawn = np.sort(np.concatenate([statistic(part) for part in parts]))
    if not (np.isfinite(drawn).all() and np.isfinite(jackknife).all()):
        raise ValueError("the statistic is not finite for every resample")
    return summed_up(value, centre, drawn, jackknife.mean() - jackknife, length=length)


def summed_up(
    value: float, centre: float, drawn: Floats, away: Floats, *, length: int = 1
) -> Estimate:
    """The estimate that resamples give.

    `drawn` are the statistic of the resamples, sorted; `centre` is that of what they were drawn
    from, and `value` the figure itself, which their spread is put around. `away`, (units,), is what
    each unit moves the statistic by or, of blocks of `length` neighbours, each block.
    """
    import numpy as np

    units, resamples = len(away), len(drawn)
    if drawn[-1] - drawn[0] <= 1e-14 * max(1.0, abs(value)):
        return Exact(value)
    below = (np.searchsorted(drawn, centre, "left") + np.searchsorted(drawn, centre, "right")) / 2
    bias = _NORMAL.inv_cdf(min(max(float(below), 0.5), resamples - 0.5) / resamples)
    away = away / (np.abs(away).max() or 1.0)
    squares = float((away**2).sum()) / length
    cubes = float((away**3).sum()) / length
    acceleration = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    # Whole blocks are drawn, which may be a few units more than there are, and the spread about a
    # mean of so few is too small by one of them.
    blocks = units / length
    stretch = math.sqrt(math.ceil(blocks) / blocks * blocks / (blocks - 1))
    # The figure of the real units keeps its place: what pseudo units shift is taken off again.
    placed = value + stretch * (drawn - centre)
    return Bootstrap(value, float(placed.std(ddof=1)), placed, bias, acceleration, blocks - 1)


def blocks_of(data: Floats, length: int) -> Floats:
    """The sums over each run of so many neighbours, by its first; of the same shape."""
    import numpy as np

    around = np.concatenate([data, data[:, : length - 1]], axis=1)
    up_to = np.concatenate([np.zeros((len(data), 1)), np.cumsum(around, axis=1)], axis=1)
    found: Floats = up_to[:, length:] - up_to[:, :-length]
    return found


@lru_cache(maxsize=64)
def _sums(held: bytes, columns: int, count: int, resamples: int, seed: int) -> list[list[Floats]]:
    """The columns' sums over each resample of so many units or blocks, in parts that fit memory.

    `held` are the columns' numbers, one column after another. A change in per cent needs the
    same sums as one in the metric's own unit.
    """
    import numpy as np

    data: Floats = np.frombuffer(held).reshape(columns, -1)
    random = np.random.default_rng(seed)
    units = data.shape[1]
    kinds, counts = np.unique(data, axis=1, return_counts=True)
    if len(counts) <= _FEW_CATEGORIES:
        drawn = random.multinomial(count, counts / units, size=resamples)
        return [[drawn @ kind for kind in kinds]]
    parts: list[list[Floats]] = []
    step = max(1, _MOST_NUMBERS // count)
    for start in range(0, resamples, step):
        chosen = random.integers(0, units, (min(step, resamples - start), count))
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
        return Sparse(span, max(1.0, len(changes) - 1.0))
    return Sparse(max(map(abs, changes)), float(differing))
