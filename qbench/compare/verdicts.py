"""From differences and margins to verdicts.

Every margin is a one-sided test in both directions, at the error alpha:

- a rule *holds* when the whole (1 - 2 alpha) interval lies inside its margin (non-inferiority);
- it is *broken* when the interval lies outside;
- else it is *inconclusive*, and the units that would decide are stated.

Of several rules judged together: all must hold for a gate to pass, so each is tested at alpha
itself and the chance that a gate with a truly broken rule passes stays at most alpha (an
intersection-union test; Berger, Technometrics 1982). A single broken or improved one is enough to
be reported, so these claims are adjusted by Holm over all the rules: the chance that any of
them is false stays at most alpha too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.comparable import Gap
from qbench.compare.estimates.estimates import Exact, holm
from qbench.compare.estimates.power import detectable_change, units_needed
from qbench.core.units import LARGEST_WRITTEN_OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.estimates.estimates import Estimate

VerdictName = Literal[
    "holds", "improved", "broken", "inconclusive", "missing", "incomparable", "not applicable"
]
MarginKind = Literal["max_increase", "max_drop", "max", "min"]
_UPWARDS = ("max_increase", "max")
"""Kinds that limit how far a value may go up; the others how far down."""
_ROUNDING = 1e-12
"""Two sides of a sum that differ by less are the same number."""


@dataclass(frozen=True)
class Margin:
    """What is allowed: of a change (`max_increase`, `max_drop`) or of the value (`max`, `min`)."""

    kind: MarginKind
    amount: float
    relative: bool = False
    """Whether the amount is a share of the old value, 0.01 for 1 %."""
    ceiling: float | None = None
    """An improvement beyond this warns; of the same kind as the amount."""

    @property
    def of_change(self) -> bool:
        """Whether it limits a change, not the value itself."""
        return self.kind in {"max_increase", "max_drop"}

    def __str__(self) -> str:
        word = {"max_increase": "at most", "max_drop": "at least", "max": "at most"}.get(self.kind)
        signed = -self.amount if self.kind == "max_drop" else self.amount
        text = amount_text(signed, relative=self.relative, signed=self.of_change)
        return f"{word or 'at least'} {text}"


@dataclass(frozen=True)
class Verdict:
    """What was decided of one rule, and why."""

    name: VerdictName
    reason: str
    difference: Difference | None = None
    low: float | None = None
    """Ends of the (1 - 2 alpha) interval, as ratios less 1 where the margin is relative."""
    high: float | None = None
    units_needed: int | None = None
    """Units that would decide, where it is inconclusive and a number can be given."""
    detectable: float | None = None
    """How far beyond the margin a change is found with a chance of 80 %; as `low`."""
    warning: str | None = None
    """Set where an improvement is too good to be believed unseen."""


@dataclass(frozen=True)
class _Test:
    """The p-values of the three claims; None where there is nothing to test."""

    holds: float
    broken: float
    improved: float | None


def judge(
    cases: Sequence[tuple[Margin, Difference | Gap]], *, alpha: float = 0.05
) -> list[Verdict]:
    """A verdict for each case, claims of broken and improved adjusted by Holm over all of them."""
    tests = [
        _test(margin, found) if not isinstance(found, Gap) and found.estimate is not None else None
        for margin, found in cases
    ]
    broken = _adjusted([None if test is None else test.broken for test in tests])
    improved = _adjusted([None if test is None else test.improved for test in tests])
    return [
        _verdict(margin, found, test, worse, better, alpha)
        for (margin, found), test, worse, better in zip(cases, tests, broken, improved, strict=True)
    ]


def amount_text(value: float, *, relative: bool, signed: bool = True) -> str:
    """A margin or a difference as a person reads it: `+0.83 %`, `-0.012`, `0.05`."""
    if not math.isfinite(value):
        return "from 0"  # a ratio to nothing
    shown = 100 * value if relative else value
    if abs(shown) < _ROUNDING:
        shown = 0.0
    sign = "+" if signed and shown else ""
    digits = f"{shown:{sign}.3g}"
    if "e" in digits and 1 <= abs(shown) < LARGEST_WRITTEN_OUT:
        digits = f"{shown:{sign},.0f}"
    return f"{digits} %" if relative else digits


def interval_text(
    low: float | None, high: float | None, *, relative: bool, signed: bool = True
) -> str | None:
    """An interval in words, such as `-0.3 % to +1.2 %`; None where there is none."""
    if low is None or high is None:
        return None
    ends = (amount_text(end, relative=relative, signed=signed) for end in (low, high))
    return " to ".join(ends)


def _test(margin: Margin, found: Difference) -> _Test:
    estimate = found.estimate
    if estimate is None:
        raise ValueError("there is nothing to test without an estimate")
    bound = _bound(margin, found)
    up = margin.kind in _UPWARDS
    if isinstance(estimate, Exact):
        # What is exactly the margin is allowed; a confidence of one half would not decide.
        beyond = estimate.value - bound if up else bound - estimate.value
        better = -estimate.value if up else estimate.value
        broken = float(beyond <= _ROUNDING * max(1.0, abs(bound)))
        return _Test(1 - broken, broken, float(better <= _ROUNDING) if margin.of_change else None)
    below, below_zero = estimate.confidence_below(bound), estimate.confidence_below(0.0)
    better_p = (1 - below_zero if up else below_zero) if margin.of_change else None
    return _Test(1 - below, below, better_p) if up else _Test(below, 1 - below, better_p)


def _bound(margin: Margin, found: Difference) -> float:
    """The margin's edge on the estimate's scale."""
    return found.bound(-margin.amount if margin.kind == "max_drop" else margin.amount)


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment over those that are there."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _verdict(
    margin: Margin,
    found: Difference | Gap,
    test: _Test | None,
    broken: float | None,
    improved: float | None,
    alpha: float,
) -> Verdict:
    if isinstance(found, Gap):
        return Verdict(found.kind, found.reason)
    estimate = found.estimate
    if estimate is None or test is None or broken is None:
        reason = found.reason or "its chance error is not known"
        needed = None if found.short_by is None else found.units + found.short_by
        return Verdict("inconclusive", reason, found, units_needed=needed)
    low, high = found.ends(alpha)
    warning = _suspicion(margin, found, estimate)
    detectable = None
    if not isinstance(estimate, Exact):
        detectable = found.shown(detectable_change(estimate, alpha=alpha))
    if test.holds <= alpha:
        better = improved is not None and improved <= alpha
        name: VerdictName = "improved" if better else "holds"
        reason = "better, and within the margin" if better else "within the margin"
        return Verdict(name, reason, found, low, high, None, detectable, warning)
    if broken <= alpha:
        reason = "beyond the margin"
        return Verdict("broken", reason, found, low, high, None, detectable, warning)
    needed = units_needed(estimate, found.units, _bound(margin, found), alpha=alpha)
    reason = _why_undecided(found, test.broken <= alpha, needed)
    return Verdict("inconclusive", reason, found, low, high, needed, detectable, warning)


def _why_undecided(found: Difference, alone: bool, needed: int | None) -> str:  # noqa: FBT001
    """`alone`: whether it would count as broken were it the only rule."""
    if alone:
        return "beyond the margin taken alone, not after the adjustment for all rules (Holm)"
    reason = "the interval reaches over the margin"
    if needed is None:
        return f"{reason}, and the figure is too near it for any number of {found.unit} to decide"
    if needed <= found.units:
        return f"{reason}; more than the {found.units} {found.unit} there are would decide"
    rounded = math.ceil(needed / (step := 10 ** max(0, len(str(needed)) - 2))) * step
    return f"{reason}; about {rounded:,} {found.unit} would decide, {found.units:,} are there"


def _suspicion(margin: Margin, found: Difference, estimate: Estimate) -> str | None:
    if margin.ceiling is None:
        return None
    shown = found.shown(estimate.value)
    gain = -shown if margin.kind in _UPWARDS else shown
    if gain <= margin.ceiling:
        return None
    change = amount_text(shown, relative=margin.relative)
    ceiling = amount_text(margin.ceiling, relative=margin.relative, signed=False)
    return (
        f"{change} is an improvement beyond the ceiling of {ceiling}: too good is suspicious;"
        " look at what changed, then make a new baseline"
    )
