"""Where the level of a series of measurements changed: numbers in, places out, no records.

For numbers whose chance from one measurement to the next is not known beforehand, such as times: a
machine is in another state each day, which no interval within one run contains. It is read off the
series themselves, which are tested together.

- The statistic of a series is the largest difference of means between a run of neighbours and the
  rest, over all runs, in standard errors, the values limited to 8 of the noise's own deviations. A
  change that stays is a run up to the end, one that is mended a run within (Olshen et al., Circular
  Binary Segmentation for the Analysis of Array-Based DNA Copy Number Data, Biostatistics 2004).
- Its chance is that of the same values in other orders: what is measured without a change could
  have come in any. That holds whatever the distribution, heavy tails too (Matteson and James, A
  Nonparametric Approach for Multiple Change Point Analysis, JASA 2014; used so for performance by
  Daly et al., The Use of Change Point Detection to Identify Software Performance Regressions in a
  Continuous Integration System, ICPE 2020).
- A change must stand without its farthest point: one outlier is none.
- Neighbours can be alike, as runs of one night are. So the orders are of what a value has that the
  one before it does not tell, at the correlation that is found (a sieve: Bühlmann, Sieve Bootstrap
  for Time Series, 1997); at none these are the values themselves, and the test is exact.
- All series are put in the same orders at once, and a series is held against the largest of those
  that are not yet told from chance (Westfall and Young, Resampling-Based Multiple Testing, 1993,
  step-down): the chance that any is called is `alpha` over all series, which may hang together.
- A series with a change is looked at again before and after it, until nothing more is found: of
  every stretch without a change, the chance that one is called in it is at most `alpha`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

FEWEST_POINTS = 8
"""Fewer have too few orders for any change to be told at 5 %: 2 of the 35 of seven are 6 %."""
FEWEST_A_SIDE = 2
"""Points on each side of a change: one alone may be an outlier."""
ORDERS = 1_500
"""Orders that are drawn: a chance of 4 % is found to half a percent."""

_CLIP = 8.0
"""Deviations of the noise that a value counts as at most: an outlier is no change."""
_TO_DEVIATION = 1.4826 / 2**0.5
"""From the median of the absolute differences of neighbours to a normal deviation."""
_CORRELATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_DRAWN = 300
"""Series by which it is found what correlation looks like after the best change is taken out."""
_LOOKS = 0.4
"""Share of the drawn series that look like less: too little correlation costs false changes, and
too much only costs those that are hard to see."""
_WITHIN = 0.9
"""What a run within counts for: were it 1, ten points would be needed, since runs can lie in many
places, and a change that stays would be told less often."""
_LONGEST_WITHIN = 40
"""Points of the longest run within: longer ones stand out by either of their ends, too, and all of
a year's would take minutes."""
_EQUAL = 1e-9


class Points(NamedTuple):
    """A series: its values, and which measurements they are of."""

    places: tuple[int, ...]
    """Rising; the same number in several series is one measurement."""
    values: tuple[float, ...]


def find_changes(series: Sequence[Points], *, alpha: float) -> list[list[int]]:
    """Indices of the first point after each change, of each series; rising.

    A series of fewer than `FEWEST_POINTS` has none that can be told.
    """
    import numpy as np

    found: list[list[int]] = [[] for _ in series]
    draws = np.random.default_rng(0)
    parts = [(at, 0, len(one.values)) for at, one in enumerate(series)]
    while True:
        parts = [part for part in parts if part[2] - part[1] >= FEWEST_POINTS]
        if not parts:
            return [sorted(places) for places in found]
        stretches = [_stretch(series[at], start, end) for at, start, end in parts]
        further = []
        for (at, start, end), one, chance in zip(
            parts, stretches, _chances(stretches, draws), strict=True
        ):
            if chance <= alpha and (changed := _changed(one)) is not None:
                middle = start + changed
                found[at].append(middle)
                further += [(at, start, middle), (at, middle, end)]
        parts = further


class _Stretch(NamedTuple):
    """A part of a series."""

    places: npt.NDArray[np.int64]
    values: Floats
    scaled: Floats
    """In deviations of the noise, about 0."""


def _stretch(points: Points, start: int, end: int) -> _Stretch:
    import numpy as np

    values = np.asarray(points.values[start:end], dtype=np.float64)
    steps = np.abs(np.diff(values))
    noise = _TO_DEVIATION * float(np.median(steps)) or float(steps.mean())
    scaled = np.zeros_like(values)
    if noise > 0:
        scaled = np.clip((values - np.median(values)) / noise, -_CLIP, _CLIP)
    return _Stretch(np.asarray(points.places[start:end]), values, scaled - scaled.mean())


def _chances(stretches: Sequence[_Stretch], draws: np.random.Generator) -> list[float]:
    """Of each stretch the chance of such a change in it without one, adjusted over all."""
    import numpy as np

    last = max(int(one.places.max()) for one in stretches)
    keys = draws.random((ORDERS, last + 1))
    found = np.array([float(_largest(one.scaled[None])[0]) for one in stretches])
    own = np.array([_correlation(one.scaled) for one in stretches])
    correlations = np.maximum(own, own.mean())  # each is known badly, and a machine's are alike
    largest = np.zeros(ORDERS)
    chances = np.ones(len(stretches))
    rising = np.argsort(found, kind="stable")
    for at in rising:
        np.maximum(largest, _reordered(stretches[at], correlations[at], keys), out=largest)
        chances[at] = (1 + np.count_nonzero(largest >= found[at] - _EQUAL)) / (ORDERS + 1)
    # A series is never surer than one that stands out more.
    chances[rising] = np.maximum.accumulate(chances[rising[::-1]])[::-1]
    return [float(one) for one in chances]


def _reordered(stretch: _Stretch, correlation: float, keys: Floats) -> Floats:
    """The statistic of the stretch in each of the orders that the keys of its places give."""
    import numpy as np

    orders = np.argsort(keys[:, stretch.places], axis=1)
    own = stretch.scaled.copy()
    own[1:] -= correlation * stretch.scaled[:-1]
    own[0] *= (1 - correlation**2) ** 0.5
    return _largest(_correlated(own[orders], correlation))


def _correlated(made: Floats, correlation: float) -> Floats:
    """Series of the values, each with so much of the one before it; `made` is (m, n), written."""
    if correlation:
        made[:, 0] /= (1 - correlation**2) ** 0.5
        for at in range(1, made.shape[1]):
            made[:, at] += correlation * made[:, at - 1]
    return made


def _apart(values: Floats) -> Iterator[tuple[npt.NDArray[np.int64], int, Floats]]:
    """By length of runs, how far their means are from the rest's, in standard errors of noise 1.

    `values` has shape (m, n). For each length from `FEWEST_A_SIDE` to n less as many: where the
    runs begin, shape (k,), the length, and the statistic, (k, m). Runs beyond `_LONGEST_WITHIN` are
    those to the ends alone.
    """
    import numpy as np

    m, n = values.shape
    sums = np.zeros((n + 1, m))
    np.cumsum((values - values.mean(axis=1, keepdims=True)).T, axis=0, out=sums[1:])
    for length in range(FEWEST_A_SIDE, n + 1 - FEWEST_A_SIDE):
        if length <= _LONGEST_WITHIN:
            begins = np.arange(n + 1 - length)
            differences = sums[length:] - sums[:-length]
        else:
            begins = np.array([0, n - length])
            differences = sums[begins + length] - sums[begins]
        np.abs(differences, out=differences)
        differences *= (n / (length * (n - length))) ** 0.5
        differences[1:-1] *= _WITHIN
        yield begins, length, differences


def _largest(values: Floats) -> Floats:
    """The statistic of each of m series; `values` has shape (m, n)."""
    import numpy as np

    largest = np.zeros(len(values))
    for _, _, apart in _apart(values):
        np.maximum(largest, apart.max(axis=0), out=largest)
    return largest


def _run(values: Floats) -> npt.NDArray[np.int64]:
    """The run that stands out most: first point and end, (m, 2); `values` has shape (m, n)."""
    import numpy as np

    largest, runs = np.full(len(values), -1.0), np.zeros((len(values), 2), dtype=np.int64)
    for begins, length, apart in _apart(values):
        most = apart.max(axis=0)
        more = most > largest
        first = begins[apart.argmax(axis=0)][more]
        largest[more], runs[more, 0], runs[more, 1] = most[more], first, first + length
    return runs


def _changed(stretch: _Stretch) -> int | None:
    """The first point after the clearer of the changes that the run stands out by.

    None where it is one outlier that makes the run stand out.
    """
    first, end = map(int, _run(stretch.scaled[None])[0])
    sides = [(0, first, end), (first, end, len(stretch.values))]

    def apart(side: tuple[int, int, int]) -> float:
        start, at, stop = side
        if at in (start, stop):
            return -1.0
        before, after = stretch.scaled[start:at], stretch.scaled[at:stop]
        size = len(before) * len(after) / (stop - start)
        return float(abs(before.mean() - after.mean()) * size**0.5)

    start, _, stop = max(sides, key=apart)
    middle = start + _likeliest(stretch.values[start:stop])
    before, after = stretch.scaled[start:middle], stretch.scaled[middle:stop]
    return middle if _stands_out(before, after) and _stands_out(after, before) else None


def _stands_out(side: Floats, other: Floats) -> bool:
    """Whether a side is as far from the other without its farthest point, by half at least."""
    import numpy as np

    apart = side - np.median(other)
    apart *= np.sign(apart.mean())
    return float(np.delete(apart, apart.argmax()).mean()) >= float(apart.mean()) / 2


def _likeliest(values: Floats) -> int:
    """The first point after the change: where values stray least from the medians of both sides.

    By medians, so that an outlier beside the change does not move it.
    """
    import numpy as np

    def strayed(at: int) -> float:
        return sum(float(np.abs(side - np.median(side)).sum()) for side in np.split(values, [at]))

    return min(range(FEWEST_A_SIDE, len(values) + 1 - FEWEST_A_SIDE), key=strayed)


def _correlation(scaled: Floats) -> float:
    """Of neighbours in the noise, from 0 on; a change taken for noise would look like much of it.

    So the run that stands out most is taken out, which takes correlation too: how much is known by
    drawing.
    """
    import numpy as np

    looks = _as_it_looks(len(scaled))
    return float(np.interp(_left(scaled[None])[0], looks, _CORRELATIONS))


def _left(values: Floats) -> Floats:
    """Correlation of neighbours without the run that stands out most; `values` is (m, n)."""
    import numpy as np

    runs, places = _run(values), np.arange(values.shape[1])
    inside = (places >= runs[:, :1]) & (places < runs[:, 1:])
    means = [
        (values * side).sum(axis=1, keepdims=True) / side.sum(axis=1, keepdims=True)
        for side in (inside, ~inside)
    ]
    rest = values - np.where(inside, *means)
    squares = (rest**2).sum(axis=1)
    products = (rest[:, 1:] * rest[:, :-1]).sum(axis=1)
    left: Floats = products / np.where(squares > 0, squares, 1.0)
    return left


@lru_cache(maxsize=64)
def _as_it_looks(n: int) -> Floats:
    """What `_left` is for each of `_CORRELATIONS`, of so many points; rising."""
    import numpy as np

    drawn = np.random.default_rng(0).normal(size=(_DRAWN, n))
    found = [
        float(np.quantile(_left(_correlated(drawn.copy(), correlation)), _LOOKS))
        for correlation in _CORRELATIONS
    ]
    rising: Floats = np.maximum.accumulate(np.array(found))
    return rising
