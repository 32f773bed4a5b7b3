"""What windows and items say of a figure, or of its change, and how surely.

Windows follow each other in a text and are resampled in blocks of neighbours, those of one document
together; items are drawn one by one, or together with those that they share a passage with (a
cluster bootstrap). The interval is about more of the same: other stretches of such a text, other
items of such a task. Of another kind of text, or task, it says nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.estimates.binary import PairedProportions, Proportion
from qbench.compare.estimates.bootstrap import bootstrap, sparse
from qbench.compare.estimates.estimates import FEWEST_UNITS, Exact, Student

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qbench.compare.estimates.bootstrap import Floats, Sampling, Statistic
    from qbench.compare.estimates.estimates import Estimate
    from qbench.compare.series import Series

WHAT_INTERVALS_ARE_ABOUT = "more text or items of the same kind, not other kinds"
_HOW_TOGETHER = {
    "groups": "Items that share what they are about are drawn together, by bootstrap.",
    "documents": "Windows of one document are drawn together, in blocks of neighbouring documents.",
}
_KEPT = 512
"""Estimates that are kept, 80 kB each: tables and pictures of a report ask for the same ones."""


def with_what_is_together(method: str, units: Collection[str | None]) -> str:
    """What is said of a method, and what is drawn together where such units are among them."""
    return " ".join([method, *(told for unit, told in _HOW_TOGETHER.items() if unit in units)])


class Estimated(NamedTuple):
    """An estimate with the method that it was made by, or why there is none."""

    estimate: Estimate | None
    method: str
    reason: str | None = None
    short_by: int | None = None
    """Units that are lacking, where that is the reason."""


@lru_cache(maxsize=_KEPT)
def of_level(own: Series, value: float, sampling: Sampling) -> Estimated:
    """The figure itself, which was recorded as `value`."""
    units = len(own.sums)
    if own.binary:
        method = f"exact limits of a share of {units} {own.unit}"
        return Estimated(Proportion(math.fsum(own.sums), units), method)
    if units < FEWEST_UNITS:
        return Estimated(None, "none", short_by=FEWEST_UNITS - units)
    if not all(map(math.isfinite, own.sums)):
        return Estimated(None, "none", f"some {own.unit} have no finite value")
    share = _share(own, value)
    if share is not None:
        return share

    def statistic(sums: list[Floats]) -> Floats:
        return own.figure(sums[0] / sums[1])

    alike = own.scores and len(set(own.sums)) == 1
    pseudo = [(value + own.span, 1.0), (value - own.span, 1.0)] * 2 if alike else []
    try:
        estimate = resample((own.sums, own.weights), statistic, own, pseudo, sampling)
    except ValueError:
        return Estimated(None, "none", f"some resamples of the {own.unit} have no finite value")
    return Estimated(estimate, _method(own))


def _share(own: Series, value: float) -> Estimated | None:
    """Exact limits where too little is seen of one kind to be resampled; None elsewhere."""
    if own.unit == "groups" and value in (0.0, 1.0):
        units = len(own.sums)
        method = f"exact limits of what is alike in all of {units} groups of items"
        return Estimated(Proportion(value * units, units), method)
    right, tokens = math.fsum(own.sums), math.fsum(own.weights)
    rare = min(right, tokens - right)
    if own.of_text and own.scores and 0 <= rare < FEWEST_UNITS:
        method = "exact limits of a share of tokens, few of which are other than the rest"
        return Estimated(Proportion(right, tokens), method)
    return None


@lru_cache(maxsize=_KEPT)
def of_change(own: Series, base: Series, *, relative: bool, sampling: Sampling) -> Estimated:
    """How far `own` is from `base`, which is of the same units in the same order."""
    units = len(own.sums)
    if not all(map(math.isfinite, (*own.sums, *base.sums))):
        return Estimated(None, "none", f"some {own.unit} have no finite value")
    exact = _exact(own, base, relative=relative)
    if exact is not None:
        return exact
    if units < FEWEST_UNITS:
        return Estimated(None, "none", short_by=FEWEST_UNITS - units)

    def statistic(sums: list[Floats]) -> Floats:
        means = [part / sums[2] for part in sums[:2]]
        if relative:
            return own.logarithm(means[0]) - base.logarithm(means[1])
        return own.figure(means[0]) - base.figure(means[1])

    changes = [mine - theirs for mine, theirs in zip(own.sums, base.sums, strict=True)]
    weight = math.fsum(own.weights) / units
    span = max(own.span, base.span) * (weight if own.unit == "groups" else 1.0)
    few = sparse(changes, span)
    pseudo = []
    if few is not None:
        middle = math.fsum(base.sums) / units
        pseudo = [(middle + few.size, middle, weight), (middle, middle + few.size, weight)] * 2
    try:
        found = resample((own.sums, base.sums, own.weights), statistic, own, pseudo, sampling)
    except ValueError:
        reason = "a relative change of what can be 0; state the margin as a number, without %"
        return Estimated(None, "none", reason)
    if few is not None and not isinstance(found, Exact):
        found = Student(found.value, found.standard_error, few.degrees)
    return Estimated(found, f"paired {_method(own)}")


def resample(
    columns: Sequence[Sequence[float]],
    statistic: Statistic,
    series: Series,
    pseudo: Sequence[Sequence[float]],
    sampling: Sampling,
) -> Estimate:
    """The bootstrap for columns of a series' units; raises ValueError as `bootstrap` does."""
    return bootstrap(
        columns,
        statistic,
        resamples=sampling.resamples,
        seed=sampling.seed,
        pseudo_units=pseudo,
        ordered=series.of_text and not pseudo,
    )


def _exact(own: Series, base: Series, *, relative: bool) -> Estimated | None:
    """What need not be resampled; None where it must be."""
    units = len(own.sums)
    if own.sums == base.sums and not own.scores:
        return Estimated(Exact(0.0), f"the same to the last bit in each of {units} {own.unit}")
    right = math.fsum(base.sums)
    if own.binary and base.binary and (right or not relative):
        pairs = list(zip(own.sums, base.sums, strict=True))
        gained, lost = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
        shares = PairedProportions(gained, lost, units, base=right / units if relative else None)
        return Estimated(shares, f"exact limits of paired shares of {units} {own.unit}")
    if own.sums == base.sums and not relative and units >= FEWEST_UNITS:
        trials = units if own.unit == "groups" else math.fsum(own.weights)
        shares = PairedProportions(0, 0, trials, own.span)
        return Estimated(shares, f"exact limits of what differs in none of {units} {own.unit}")
    return None


def _method(own: Series) -> str:
    if own.unit == "groups":
        return "bootstrap over groups of items"
    return f"block bootstrap over {own.unit}" if own.of_text else "bootstrap over items"
