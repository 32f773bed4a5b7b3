"""Which cells meet the limits, which is the best of them, and what the others fail by.

A cell meets a limit when its whole 95 % interval lies within it (on the bound itself is within),
fails when its whole interval lies beyond, and is undecided else, or where the figure or its
interval is not known. Of the cells that meet every limit the best is the one with the lowest value
of what is minimized; among equals the one whose first quality is better, then the earlier one. A
cell with faulty layers is never chosen, nor one of which what is minimized is not known.

Where no cell meets the budget, the nearest is the one whose farthest way to its limits is the
shortest: from each bound to the far end of the interval, as a share of the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from qbench.compare.estimates.power import units_needed
from qbench.compare.recommend.ranges import ALPHA

if TYPE_CHECKING:
    from qbench.compare.recommend.axis import Axis
    from qbench.compare.recommend.choices import Choice, Choices
    from qbench.compare.recommend.limits import Limit
    from qbench.compare.recommend.ranges import Range

Verdict = Literal["meets", "fails", "undecided"]
Standing = Literal["recommended", "meets", "undecided", "fails", "faulty"]
_ORDER: tuple[Standing, ...] = ("recommended", "meets", "undecided", "fails", "faulty")
_LEAST_SCALE = 0.01
"""What a bound on a quality counts as where it is nearer to 0: a distance needs a measure."""


@dataclass(frozen=True)
class Needed:
    """What more data would decide."""

    unit: str
    """`windows`, `items` or `processes`."""
    there: int
    """How many there are."""
    more: int | None
    """How many more, about; None where no number of them would."""


@dataclass(frozen=True)
class Check:
    """One limit on one cell."""

    axis: Axis
    limit: Limit
    range: Range
    verdict: Verdict
    beyond: float | None = None
    """How far the figure lies beyond the bound, in the axis's unit; None where it does not."""
    distance: float | None = None
    """From the bound to the far end of the interval (to the figure where there is none), as a share
    of the bound; 0 where it meets, None where it is not known."""
    needed: Needed | None = None
    """Of an undecided one, where a number can be given."""


@dataclass(frozen=True)
class Candidate:
    """A cell with what is said of it."""

    cell: Choice
    standing: Standing
    checks: tuple[Check, ...]
    """One for each limit."""
    minimized: Range
    told_apart: bool | None = None
    """Of one that meets: whether what is minimized is told apart from the best's; None of the best
    itself, and where an interval is not known."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The limits that it fails."""
        return tuple(check for check in self.checks if check.verdict == "fails")

    @property
    def undecided(self) -> tuple[Check, ...]:
        """The limits that are not decided."""
        return tuple(check for check in self.checks if check.verdict == "undecided")

    @property
    def distance(self) -> float:
        """The farthest of its ways to the limits; infinite where one is not known."""
        ways = [math.inf if one.distance is None else one.distance for one in self.checks]
        return max(ways, default=0.0)


@dataclass(frozen=True)
class Recommendation:
    """What to run of one table of cells."""

    choices: Choices
    candidates: tuple[Candidate, ...]
    """The best first, then those that meet, that are undecided, that fail and the faulty ones; each
    by what is minimized."""

    @property
    def best(self) -> Candidate | None:
        """The recommended cell; None where none meets every limit."""
        first = next(iter(self.candidates), None)
        return first if first is not None and first.standing == "recommended" else None

    @property
    def nearest(self) -> Candidate | None:
        """Where none meets, the cell that lacks least; None where nothing is known of any."""
        if self.best is not None:
            return None
        known = [
            one
            for one in self.candidates
            if one.standing in ("undecided", "fails") and math.isfinite(one.distance)
        ]
        return min(known, key=lambda one: one.distance, default=None)

    @property
    def axis(self) -> Axis:
        """What is minimized."""
        return self.choices.axis(self.choices.minimize)

    def of(self, standing: Standing) -> tuple[Candidate, ...]:
        """The cells of which the same is said."""
        return tuple(one for one in self.candidates if one.standing == standing)


def recommend(choices: Choices) -> Recommendation:
    """The best of the cells that meet the limits, with what is said of every other."""
    judged = [_judged(cell, choices) for cell in choices.cells]
    judged.sort(key=lambda one: (_ORDER.index(one.standing), _rank(one, choices)))
    if judged and judged[0].standing == "meets":
        best = replace(judged[0], standing="recommended")
        others = [
            replace(one, told_apart=_apart(best.minimized, one.minimized))
            if one.standing == "meets"
            else one
            for one in judged[1:]
        ]
        judged = [best, *others]
    return Recommendation(choices, tuple(judged))


def relaxed_to(check: Check) -> float | None:
    """The bound that a cell would meet; None where its figure is not known."""
    far = check.range.high if check.limit.kind == "max" else check.range.low
    return check.range.value if far is None else far


def _judged(cell: Choice, choices: Choices) -> Candidate:
    checks = tuple(
        _check(choices.axis(key), limit, cell.ranges[key]) for key, limit in choices.limits.items()
    )
    minimized = cell.ranges[choices.minimize]
    verdicts = {check.verdict for check in checks}
    standing: Standing = "meets"
    if cell.faulty:
        standing = "faulty"
    elif "fails" in verdicts:
        standing = "fails"
    elif "undecided" in verdicts or minimized.value is None:
        standing = "undecided"
    return Candidate(cell, standing, checks, minimized)


def _check(axis: Axis, limit: Limit, known: Range) -> Check:
    # A least value is a largest one with the signs changed.
    sign = 1.0 if limit.kind == "max" else -1.0
    bound = sign * limit.bound
    ends = (known.low, known.high) if limit.kind == "max" else (known.high, known.low)
    near, far = (None if end is None else sign * end for end in ends)
    value = None if known.value is None else sign * known.value
    if far is not None and far <= bound:
        return Check(axis, limit, known, "meets", distance=0.0)
    beyond = value - bound if value is not None and value > bound else None
    measure = max(abs(bound), _LEAST_SCALE) if axis.kind == "quality" else abs(bound)
    reached = value if far is None else far
    distance = None
    if reached is not None:
        distance = max(0.0, reached - bound) / measure if measure else math.inf
    if near is not None and near > bound:
        return Check(axis, limit, known, "fails", beyond, distance)
    needed = _needed(limit.bound / axis.factor, known)
    return Check(axis, limit, known, "undecided", beyond, distance, needed)


def _needed(bound: float, known: Range) -> Needed | None:
    found = known.found
    if found is None or found.unit is None:
        return None
    if found.estimate is None:
        lacking = found.short_by
        return None if lacking is None else Needed(found.unit, found.units, lacking)
    total = units_needed(found.estimate, found.units, found.bound(bound), alpha=ALPHA / 2)
    more = None if total is None else max(1, total - found.units)
    return Needed(found.unit, found.units, more)


def _rank(one: Candidate, choices: Choices) -> tuple[float, float]:
    """By what is minimized, then by the first quality."""
    quality = next((axis for axis in choices.axes if axis.kind == "quality"), None)
    value = None if quality is None else one.cell.ranges[quality.key].value
    if value is not None and quality is not None and quality.better == "higher":
        value = -value
    least = one.minimized.value
    return math.inf if least is None else least, math.inf if value is None else value


def _apart(best: Range, other: Range) -> bool | None:
    """Whether two intervals do not overlap; None where one is not known."""
    if best.high is None or other.low is None:
        return None
    return best.high < other.low
