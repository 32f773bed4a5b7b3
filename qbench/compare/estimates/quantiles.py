"""The bootstrap of a quantile: whole windows, or documents, are drawn with all that they hold.

The tokens of a window are not independent, so that limits for independent values (of order
statistics) would be far too narrow. A resample is known by how often each unit is in it; the
quantile of all the values in it is what is looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

from qbench.compare.estimates.blocks import block_length
from qbench.compare.estimates.bootstrap import blocks_of, summed_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from qbench.compare.estimates.bootstrap import Floats, Sampling
    from qbench.compare.estimates.estimates import Estimate

_MOST_NUMBERS = 2_000_000
"""Times that a unit is in a resample, held at once: 16 MB."""


class Spread(Protocol):
    """The values of units, such as the tokens of windows, as far as quantiles need them."""

    @property
    def sizes(self) -> Floats:
        """(units,): how many values each unit has."""

    def quantile(self, times: Floats, share: float) -> Floats:
        """(m,): the quantile of m resamples, which hold each unit so many times, (m, units)."""

    def above(self, share: float) -> Floats:
        """(units,): how many of each unit's values lie above that quantile of all."""

    def by_group(self, groups: npt.NDArray[np.int64]) -> Spread:
        """Of the groups that units belong to, (units,), numbered from 0: all values of a group."""


@dataclass(frozen=True, eq=False)
class Binned:
    """Values that are known by the bin they lie in; within one they are taken for even."""

    counts: Floats
    """(units, bins)."""
    edges: Floats
    """(bins + 1,), ascending: positive but for the first, which may be 0."""

    @cached_property
    def sizes(self) -> Floats:
        """As in `Spread`."""
        found: Floats = self.counts.sum(axis=1)
        return found

    def quantile(self, times: Floats, share: float) -> Floats:
        """By the place among the ordered values, as numpy's; even on a logarithmic axis."""
        import numpy as np

        # The value in the middle of its place: the first of n lies at 1/2 of n.
        place = share * (times @ self.sizes - 1) + 0.5
        first, end = self._near(times, place)
        upto = times @ self._below[:, first : end + 1]
        at = np.minimum((upto[:, 1:] < place[:, None]).sum(axis=1), end - first - 1)
        rows = np.arange(len(times))
        before, within = upto[rows, at], upto[rows, at + 1] - upto[rows, at]
        part = (place - before) / np.maximum(within, 1e-300)
        return self._value(first + at, np.clip(part, 0.0, 1.0))

    def above(self, share: float) -> Floats:
        """As in `Spread`; of the bin that it lies in, the part above."""
        import numpy as np

        total = self.counts.sum(axis=0)
        upto = np.cumsum(total)
        place = share * (upto[-1] - 1) + 0.5
        at = int((upto < place).sum())
        part = 1 - (place - (upto[at] - total[at])) / total[at]
        found: Floats = self.counts[:, at + 1 :].sum(axis=1) + part * self.counts[:, at]
        return found

    def by_group(self, groups: npt.NDArray[np.int64]) -> Binned:
        """As in `Spread`."""
        import numpy as np

        counts = np.zeros((int(groups.max()) + 1, self.counts.shape[1]))
        np.add.at(counts, groups, self.counts)
        return Binned(counts, self.edges)

    @cached_property
    def _below(self) -> Floats:
        """(units, bins + 1): how many of each unit's values lie below each edge."""
        import numpy as np

        none = np.zeros((len(self.counts), 1))
        return np.concatenate([none, np.cumsum(self.counts, axis=1)], axis=1)

    def _near(self, times: Floats, place: Floats) -> tuple[int, int]:
        """The first bin that one of the places can lie in, and the end of those that can."""
        import numpy as np

        bins = self.counts.shape[1]
        step = math.isqrt(bins)
        ends = np.arange(step, bins + 1, step)
        held = (times @ self._below[:, ends] < place[:, None]).sum(axis=1)
        return min(int(held.min()) * step, bins - 1), min((int(held.max()) + 1) * step, bins)

    def _value(self, bins: npt.NDArray[np.int64], part: Floats) -> Floats:
        import numpy as np

        low, high = self.edges[bins], self.edges[bins + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            even = low * (high / low) ** part
        return np.where(low > 0, even, low + part * (high - low))


@dataclass(frozen=True, eq=False)
class Listed:
    """Values that are known one by one, each of a unit."""

    values: Floats
    """(values,)."""
    units: npt.NDArray[np.int64]
    """(values,): the unit of each, from 0."""

    @cached_property
    def sizes(self) -> Floats:
        """As in `Spread`."""
        import numpy as np

        return np.bincount(self.units).astype(np.float64)

    def quantile(self, times: Floats, share: float) -> Floats:
        """Linear between the neighbours in the order, each as often as its unit is there."""
        import numpy as np

        place = share * (times @ self.sizes - 1)
        whole = np.floor(place)
        first, end = self._near(times, whole)
        units, values = self._units[first:end], self._values[first:end]
        below = times @ np.bincount(self._units[:first], minlength=len(self.sizes))
        upto = below[:, None] + np.cumsum(times[:, units], axis=1)
        low, high = (
            values[np.minimum((upto <= one[:, None]).sum(axis=1), end - first - 1)]
            for one in (whole, whole + 1)
        )
        found: Floats = low + (place - whole) * (high - low)
        return found

    def above(self, share: float) -> Floats:
        """As in `Spread`."""
        import numpy as np

        beyond = self.values > np.quantile(self.values, share)
        found: Floats = np.bincount(self.units, beyond.astype(np.float64), len(self.sizes)).astype(
            np.float64
        )
        return found

    def by_group(self, groups: npt.NDArray[np.int64]) -> Listed:
        """As in `Spread`."""
        return Listed(self.values, groups[self.units])

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        import numpy as np

        return np.argsort(self.values, kind="stable")

    @cached_property
    def _values(self) -> Floats:
        """In their order."""
        return self.values[self._order]

    @cached_property
    def _units(self) -> npt.NDArray[np.int64]:
        """Of the values in their order."""
        return self.units[self._order]

    @cached_property
    def _steps(self) -> tuple[int, Floats]:
        """A number of values, and how many each unit has of the first one, two … times so many."""
        import numpy as np

        step = math.isqrt(len(self.values))
        held = np.zeros((len(self.sizes), -(-len(self.values) // step)))
        np.add.at(held, (self._units, np.arange(len(self.values)) // step), 1)
        return step, np.cumsum(held, axis=1)

    def _near(self, times: Floats, place: Floats) -> tuple[int, int]:
        """In the order, the first value that is looked for, and the end of those that are."""
        step, held = self._steps
        upto = times @ held
        first = int((upto <= place[:, None]).sum(axis=1).min()) * step
        last = int((upto <= place[:, None] + 1).sum(axis=1).max()) * step
        return min(first, len(self.values) - 1), min(last + step, len(self.values))


def influence(spread: Spread, share: float) -> Floats:
    """(units,): how far each unit moves the quantile, to first order (Bahadur 1966), from 0."""
    import numpy as np

    step = min(share, 1 - share) / 2
    everything = np.ones((1, len(spread.sizes)))
    ends = [float(spread.quantile(everything, share + by)[0]) for by in (-step, step)]
    slope = (ends[1] - ends[0]) / (2 * step)
    moved: Floats = spread.above(share) - (1 - share) * spread.sizes
    moved *= slope / spread.sizes.sum()
    return moved


def bootstrap_quantile(
    figure: Callable[[Floats], Floats],
    value: float,
    moved: Floats,
    sampling: Sampling,
    *,
    ordered: bool = True,
) -> Estimate:
    """A figure made of quantiles over the same units, such as their difference, with its chance.

    `figure` gives it for resamples as `Spread.quantile` does; `value` is the figure itself, and
    `moved`, (units,), how far each unit moves it. `ordered` units follow each other: blocks of
    neighbours are drawn, as long as that says. Raises `ValueError` where it is not finite for every
    resample.
    """
    import numpy as np

    units, length = len(moved), block_length(moved) if ordered else 1
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = float(figure(np.ones((1, units)))[0])
        small = sampling.resamples * units <= _MOST_NUMBERS
        parts = _kept_times(units, length, sampling) if small else _times(units, length, sampling)
        drawn = np.sort(np.concatenate([figure(part) for part in parts]))
    if not (math.isfinite(value) and math.isfinite(centre) and np.isfinite(drawn).all()):
        raise ValueError("the figure is not finite for every resample")
    away = blocks_of(moved[None], length)[0]
    return summed_up(value, centre, drawn, away - away.mean(), length=length)


@lru_cache(maxsize=4)
def _kept_times(units: int, length: int, sampling: Sampling) -> tuple[Floats, ...]:
    """Those of `_times`: many figures of a report are of as many units."""
    return tuple(_times(units, length, sampling))


def _times(units: int, length: int, sampling: Sampling) -> Iterator[Floats]:
    """How often each unit is in each resample, (m, units), in parts that fit memory."""
    import numpy as np

    random = np.random.default_rng(sampling.seed)
    count = math.ceil(units / length)
    step = max(1, _MOST_NUMBERS // units)
    for start in range(0, sampling.resamples, step):
        taken = min(step, sampling.resamples - start)
        if length == 1:
            yield random.multinomial(units, np.full(units, 1 / units), taken).astype(np.float64)
            continue
        begun = random.integers(0, units, (taken, count))
        begun += np.arange(taken)[:, None] * units
        starts = np.bincount(begun.ravel(), minlength=taken * units).reshape(taken, units)
        # A unit is in each block that begins at it or at one of those before it; the last is the
        # first's neighbour.
        ring = np.concatenate([np.zeros((taken, 1)), starts[:, -length + 1 :], starts], axis=1)
        upto = np.cumsum(ring, axis=1)
        yield upto[:, length:] - upto[:, :-length]
