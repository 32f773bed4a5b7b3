"""Which of several records of one key is kept, and how far they differ.

Records of one key measured the same thing under the same conditions. Quality and bytes should be
equal then, but for rounding; times, rates, energies and peaks are of one run of one machine. So

- a record that is ok goes before one that is not, and a failure before one that was skipped;
- of several that are ok, one with more figures goes before one with fewer, such as one that could
  not be compared with the reference;
- then the newest is kept, or the one of the folder that was named first, as it is preferred;
- where figures that should be equal are not, none is kept unless a preference was stated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.comparable import is_device_bound
from qbench.compare.variation import variation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.merge.takes import Take
    from qbench.core.record import Record

Prefer = Literal["first", "newest"]
Why = Literal["clash", "measured twice", "ok before failed", "more figures", "failed twice"]

ROUNDING = 1e-3
"""Relative difference that other threads or kernels make of a figure over windows or items."""
_EXACT = 1e-6
"""The same of what nothing varies by, such as bytes and errors of weights."""
_NOTHING = 1e-6
"""Absolute difference that is none, of figures near 0."""
_RANK = {"ok": 2, "skipped": 0}
_FAILED = 1


@dataclass(frozen=True)
class Unequal:
    """A figure that is not the same in two records of one key."""

    take: Take
    """The other one."""
    metric: str
    unit: str
    kept: float
    other: float
    should_be_equal: bool

    @property
    def relative(self) -> float | None:
        """How much larger the other is, as a share; None from 0."""
        return None if self.kept == 0 else self.other / self.kept - 1

    @property
    def size(self) -> float:
        """For finding the largest."""
        return math.inf if self.relative is None else abs(self.relative)


@dataclass(frozen=True)
class Choice:
    """What is made of the records of one place."""

    best: Take
    """What is kept, unless it is undecided."""
    others: tuple[Take, ...] = ()
    why: Why | None = None
    """None where there is but one record, however often."""
    unequal: tuple[Unequal, ...] = ()
    """Figures of another record that differ from those of the best."""
    undecided: bool = False
    """Whether someone must say which to keep."""

    @property
    def kept(self) -> Take | None:
        """The record that is kept; None where that is undecided."""
        return None if self.undecided else self.best

    @property
    def same_figures(self) -> bool:
        """Whether the same was found again, so that it does not matter which is kept."""
        return self.why == "measured twice" and not self.unequal


def choose(takes: Sequence[Take], prefer: Prefer | None) -> Choice:
    """Which of the records of one place is kept; `takes` in the order their folders were named."""
    distinct: dict[bytes, Take] = {}
    for take in takes:
        distinct.setdefault(take.digest, take)
    best = _preferred(distinct.values(), prefer)
    others = tuple(take for take in distinct.values() if take is not best)
    if not others:
        return Choice(best)
    if best.status != "ok":
        return Choice(best, others, "failed twice")
    rivals = [take for take in others if take.status == "ok"]
    if not rivals:
        return Choice(best, others, "ok before failed")
    kept = best.record()
    unequal = tuple(found for take in rivals for found in _unequal(kept, take))
    if any(one.should_be_equal for one in unequal):
        return Choice(best, others, "clash", unequal, undecided=prefer is None)
    fuller = any(take.figures < best.figures for take in rivals)
    return Choice(best, others, "more figures" if fuller else "measured twice", unequal)


def _unequal(kept: Record, take: Take) -> list[Unequal]:
    """The figures that both records have, and that differ by more than rounding."""
    other = take.record()
    found = []
    for metric in kept.metrics:
        value, second = metric.value, other.value(metric.name)
        if value is None or second is None or value == second:
            continue
        bound = is_device_bound(kept, metric.name)
        rounding = _EXACT if variation(kept, metric) == "nothing" else ROUNDING
        if bound or not math.isclose(value, second, rel_tol=rounding, abs_tol=_NOTHING):
            found.append(Unequal(take, metric.name, metric.unit, value, second, not bound))
    return found


def _preferred(takes: Iterable[Take], prefer: Prefer | None) -> Take:
    """The one to keep, if one may be kept; the first of those that are alike."""

    def place(take: Take) -> tuple[int, int, str]:
        rank = _RANK.get(take.status, _FAILED)
        figures = take.figures if take.status == "ok" else 0
        return rank, figures, "" if prefer == "first" else take.started_at

    return max(takes, key=place)
