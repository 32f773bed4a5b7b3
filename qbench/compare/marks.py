"""What is said of differences that are shown together: real, equivalent or undecided.

A difference is *equivalent* when its whole (1 - 2 alpha) interval lies inside a stated margin (two
one-sided tests), *real* when it is not 0 (two-sided, at alpha), and *undecided* else. Many such
claims stand side by side in one comparison or one table: the p-values of each kind are adjusted by
Holm over all of them, so that the chance of any false claim of that kind is at most alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from qbench.compare.comparable import Gap, find_gap
from qbench.compare.differences import difference
from qbench.compare.estimates.estimates import equivalence, holm, two_sided
from qbench.compare.quantiles import OF_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.estimates.bootstrap import Sampling
    from qbench.core.record import Better, Metric, Record

Finding = Literal["real", "equivalent", "undecided", "missing", "incomparable", "not applicable"]


class Allowance(NamedTuple):
    """The margin within which two values are called equivalent."""

    amount: float
    relative: bool


@dataclass(frozen=True)
class Mark:
    """What is said of one difference, after the adjustment for all that were made together."""

    finding: Finding
    reason: str
    low: float | None = None
    """Ends of the (1 - alpha) interval; ratios less 1 where the difference is relative."""
    high: float | None = None


def mark_all(cases: Sequence[tuple[Difference | Gap, Allowance]], *, alpha: float) -> list[Mark]:
    """A mark for each difference, the claims of each kind adjusted by Holm over all of them."""
    estimates = [None if isinstance(found, Gap) else found.estimate for found, _ in cases]
    same: list[float] = []
    differs: list[float] = []
    for (found, allowance), estimate in zip(cases, estimates, strict=True):
        if isinstance(found, Gap) or estimate is None:
            continue
        low, high = (found.bound(end) for end in (-allowance.amount, allowance.amount))
        same.append(0.0 if found.equal else equivalence(estimate, low, high))
        differs.append(two_sided(estimate))
    adjusted = iter(zip(holm(same), holm(differs), strict=True))
    marks = []
    for (found, _), estimate in zip(cases, estimates, strict=True):
        if isinstance(found, Gap):
            marks.append(Mark(found.kind, found.reason))
        elif estimate is None:
            marks.append(Mark("undecided", found.reason or "its chance error is not known"))
        else:
            same_p, differs_p = next(adjusted)
            marks.append(Mark(*_finding(same_p, differs_p, alpha), *found.ends(alpha / 2)))
    return marks


def direction(found: Difference | Gap | None, mark: Mark, better: Better) -> str | None:
    """`better`, `worse` or `changed` for a real difference, else None."""
    if mark.finding != "real" or found is None or isinstance(found, Gap) or found.estimate is None:
        return None
    return way(found.estimate.value, better)


def way(change: float, better: Better) -> Literal["better", "worse", "changed"]:
    """What a change is to a reader; `changed` where neither way is better."""
    if better == "neither":
        return "changed"
    return "worse" if (change > 0) == (better == "lower") else "better"


def verdict_of(found: Difference | Gap | None, mark: Mark, better: Better) -> str:
    """`equal`, the direction of a real difference, or the finding."""
    if found is not None and not isinstance(found, Gap) and found.equal:
        return "equal"
    return direction(found, mark, better) or mark.finding


def known_change(found: Difference | Gap) -> float | None:
    """The change as it is shown; None where the chance in it is not known."""
    return None if isinstance(found, Gap) or found.estimate is None else found.plain


_BY_METRIC = {
    "perplexity": Allowance(0.005, relative=True),
    "decoded.perplexity": Allowance(0.005, relative=True),
    "chat.perplexity": Allowance(0.005, relative=True),
    "bits_per_byte": Allowance(0.005, relative=True),
    "completion.loss": Allowance(0.02, relative=False),
    "needle.loss": Allowance(0.02, relative=False),
}


def default_allowance(metric: Metric, measurement: str) -> Allowance:
    """What is small enough to be called the same, unless someone says otherwise."""
    if metric.unit in {"s", "tokens/s", "requests/s"}:
        return Allowance(0.05, relative=True)
    if measurement == "memory" or metric.name.startswith("serving.memory."):
        return Allowance(0.02, relative=True)
    if metric.unit == "B" or measurement == "footprint":
        return Allowance(0.0, relative=True)
    if metric.name.startswith(("kl.", "decoded.kl.", "sensitivity.kl.", "chat.kl.")):
        return Allowance(0.001, relative=False)
    if metric.name.startswith(OF_WINDOWS):
        return _BY_METRIC["perplexity"]
    return _BY_METRIC.get(metric.name, Allowance(0.01, relative=False))


def one_change(
    new: Sequence[Record],
    old: Sequence[Record],
    metric: str,
    sampling: Sampling,
    *,
    same_run: bool,
) -> Difference | Gap:
    """The change of one metric of one item, or what bars it; relative as its allowance is."""
    gap = find_gap(new, old, metric, same_run=same_run)
    if gap is not None:
        return gap
    example = next(one for record in new if (one := record.metric(metric)) is not None)
    relative = default_allowance(example, new[0].item.measurement).relative
    return difference(new, old, metric, relative=relative, sampling=sampling)


def _finding(same_p: float, differs_p: float, alpha: float) -> tuple[Finding, str]:
    if same_p <= alpha:
        return "equivalent", "the whole interval lies inside the margin of equivalence"
    if differs_p <= alpha:
        return "real", "the difference is not chance"
    return "undecided", "neither shown to differ nor shown to be the same"
