"""From claims and the records of one table to verdicts.

A claim is true if a figure lies in a range. It *holds* where the whole 95 % interval of every one
of its figures lies inside, *does not hold* where that of one lies outside, and is *undecided* else:
that no difference was found never counts as none. Each of the first two is adjusted by Holm over
all the claims of a table, so that the chance that any such verdict is false is at most 5 % of
either kind; of a claim with several figures all must lie inside (an intersection-union test, with
no adjustment), and of those outside the smallest p-value counts once for each (Bonferroni).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.claims.found import Found, find_all
from qbench.compare.comparable import Gap
from qbench.compare.differences import Difference
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.estimates.estimates import Exact, holm
from qbench.compare.estimates.power import units_needed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from qbench.compare.claims.claim import Claim, Range
    from qbench.compare.selection import TableRecords

VerdictName = Literal["holds", "does not hold", "undecided", "not testable"]
VERDICTS: tuple[VerdictName, ...] = ("holds", "does not hold", "undecided", "not testable")
_ROUNDING = 1e-12
"""An exact figure that is nearer to a bound lies on it."""
_KINDS = {"cuda": "a CUDA GPU", "cpu": "a CPU"}


@dataclass(frozen=True)
class Judged:
    """What the records of one table say of a claim."""

    claim: Claim
    verdict: VerdictName
    reason: str
    """Why: of what is undecided what would decide it, of what is not testable what is missing."""
    figures: tuple[Found, ...] = ()
    """All that it was decided by; the one that decides first."""

    @property
    def deciding(self) -> Found | None:
        """The figure that the verdict hangs on; None where it is not testable."""
        return self.figures[0] if self.figures else None


@dataclass(frozen=True)
class _Tested:
    """A claim with its p-values; None where there are none."""

    claim: Claim
    figures: tuple[Found, ...]
    inside: tuple[float | None, ...] = ()
    """By figure, of "it lies outside the range"."""
    outside: tuple[float | None, ...] = ()
    """By figure, of "it lies inside the range"."""
    missing: str | None = None
    """Why some of its figures are not there at all."""


def judge_claims(
    claims: Sequence[Claim],
    table: TableRecords,
    sampling: Sampling | None = None,
    taken_by: Mapping[str, Collection[str]] | None = None,
) -> list[Judged]:
    """What the records of a table say of each claim, in their order.

    `taken_by` has the measurements of each metric, for the reasons of those that are not there.
    """
    sampling = sampling or Sampling()
    tested = [_test(claim, table, sampling, taken_by) for claim in claims]
    holding = _adjusted([_all_inside(one) for one in tested])
    failing = _adjusted([_any_outside(one) for one in tested])
    return [
        _judged(one, holds, fails, sampling.alpha)
        for one, holds, fails in zip(tested, holding, failing, strict=True)
    ]


def _test(
    claim: Claim,
    table: TableRecords,
    sampling: Sampling,
    taken_by: Mapping[str, Collection[str]] | None,
) -> _Tested:
    barred = _about_another(claim, table)
    if barred is not None:
        return _Tested(claim, (), missing=barred)
    figures: list[Found] = []
    missing: list[str] = []
    for check in claim.checks:
        found, why = find_all(check, table, sampling, taken_by)
        figures += [one for one in found if not isinstance(one.figure, Gap)]
        missing += [one.figure.reason for one in found if isinstance(one.figure, Gap)]
        missing += [why] if why else []
    p_values = [_p_values(one) for one in figures]
    return _Tested(
        claim,
        tuple(figures),
        tuple(inside for inside, _ in p_values),
        tuple(outside for _, outside in p_values),
        missing[0] if missing else None,
    )


def _about_another(claim: Claim, table: TableRecords) -> str | None:
    """Why the claim is about another device or model than the table's."""
    records = [record for cell in table.every for record in cell.records]
    kind = records[0].environment.device_type
    if claim.device is not None and claim.device != kind:
        return f"it is about {_KINDS[claim.device]}, and this is {_KINDS[kind]}"
    if claim.weights is None:
        return None
    counted = [held for one in records if (held := one.value("weights")) is not None]
    if not counted:
        return "it is about models of a certain size, and no footprint tells this one's"
    fewest, most = claim.weights
    if fewest <= counted[0] <= most:
        return None
    size = "small" if counted[0] < fewest else "large"
    about = f"{_count(fewest)} to {_count(most)} weights"
    return f"the model is too {size}: it has {_count(counted[0])}, the claim is about {about}"


def _count(weights: float) -> str:
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if weights >= size:
            return f"{weights / size:.3g} {name}"
    return f"{weights:,.0f}"


def _p_values(found: Found) -> tuple[float | None, float | None]:
    """Two-sided p-values of "it lies outside the range" and of "it lies inside".

    The first is at most 5 % where the whole 95 % interval lies inside, the second where outside.
    """
    figure = found.figure
    if not isinstance(figure, Difference) or figure.estimate is None:
        return None, None
    estimate, within = figure.estimate, found.check.expect
    low, high = (None if end is None else figure.bound(end) for end in within.ends)
    if isinstance(estimate, Exact):
        inside = _lies_inside(estimate.value, low, high, within)
        return float(not inside), float(inside)
    below_low = 0.0 if low is None else estimate.confidence_below(low)
    above_high = 0.0 if high is None else 1 - estimate.confidence_below(high)
    outside = [
        1 - share for share, end in ((below_low, low), (above_high, high)) if end is not None
    ]
    # Outside is so on either side: where there are two, the smaller counts twice.
    return min(1.0, 2 * max(below_low, above_high)), min(1.0, 2 * len(outside) * min(outside))


def _lies_inside(value: float, low: float | None, high: float | None, within: Range) -> bool:
    for end, sign in ((low, 1), (high, -1)):
        if end is None:
            continue
        beyond = sign * (end - value)
        slack = _ROUNDING * max(1.0, abs(end))
        if beyond > slack or (within.open and beyond >= -slack):
            return False
    return True


def _all_inside(one: _Tested) -> float | None:
    """The p-value of "some figure lies outside"; None where some is not known."""
    known = [p for p in one.inside if p is not None]
    return max(known) if known and one.missing is None and len(known) == len(one.inside) else None


def _any_outside(one: _Tested) -> float | None:
    """The p-value of "all figures lie inside"; None where none is known."""
    known = [p for p in one.outside if p is not None]
    return min(1.0, len(known) * min(known)) if known else None


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _judged(one: _Tested, holds: float | None, fails: float | None, alpha: float) -> Judged:
    if fails is not None and fails <= alpha:
        first = _first(one, [1.0 if p is None else p for p in one.outside])
        return Judged(one.claim, "does not hold", "the whole interval lies outside", first)
    if not one.figures or one.missing is not None:
        return Judged(one.claim, "not testable", one.missing or "no record tells of it")
    # What is the least inside is what the claim hangs on.
    first = _first(one, [-2.0 if p is None else -p for p in one.inside])
    if holds is not None and holds <= alpha:
        return Judged(one.claim, "holds", "the whole interval lies inside", first)
    return Judged(one.claim, "undecided", _what_would_decide(first[0], alpha), first)


def _first(one: _Tested, order: Sequence[float]) -> tuple[Found, ...]:
    """The figures, that with the smallest number first."""
    ranked = sorted(zip(order, range(len(order)), strict=True))
    return tuple(one.figures[at] for _, at in ranked)


def _what_would_decide(found: Found, alpha: float) -> str:
    """Of the figure that is least decided."""
    figure = found.figure
    if isinstance(figure, Gap):
        return figure.reason
    if figure.estimate is None:
        return figure.reason or "its chance error is not known"
    inside, outside = _p_values(found)
    if min(inside or 1.0, outside or 1.0) <= alpha:
        return (
            "decided taken alone, not after the adjustment for all claims of the table (Holm);"
            f" more {_units(figure)} would decide"
        )
    ends = [figure.bound(end) for end in found.check.expect.ends if end is not None]
    nearest = min(ends, key=lambda end: abs(end - figure.estimate.value))  # type: ignore[union-attr]
    needed = units_needed(figure.estimate, figure.units, nearest, alpha=alpha / 2)
    reason = "the interval reaches over the bound"
    if needed is None or needed <= figure.units or "seeds" in figure.method:
        return f"{reason}; more {_units(figure)} would decide"
    there = f"there are {figure.units:,}"
    return f"{reason}; about {_rounded(needed):,} {figure.unit} would decide, {there}"


def _units(figure: Difference) -> str:
    own = figure.unit or "figures"
    return f"seeds or {own}" if "seeds" in figure.method else own


def _rounded(number: int) -> int:
    step: int = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / step) * step
