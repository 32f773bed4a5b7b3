"""Where lines changed, significantly and by more than is small.

A metric that has no chance in it, or whose windows or items are the same at both points, is
compared with the first point since its last change, as `qbench.compare.compare` compares two sides.
Times and what else varies from run to run are judged by the whole line: see
`qbench.compare.estimates.change_points`. Whether a change is more than small is asked of both: it
is not where the whole 90 % interval lies inside the margin of equivalence.

Of what did not change at all, the chance that anything is called a change is at most 5 %: 4 % for
the lines that vary from run to run, together, and 1 % for the paired comparisons, together. Where
neighbours are much alike it is somewhat more: docs/history.md has the rates that were found.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.differences import Difference
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.estimates.change_points import FEWEST_POINTS, Points, find_changes
from qbench.compare.estimates.estimates import equivalence, two_sided, welch
from qbench.compare.marks import one_change, way
from qbench.compare.variation import variation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.history.lines import Dot, MetricLine
    from qbench.core.record import Better

ALPHA_VARYING = 0.04
"""The chance of a false change among all lines that vary from run to run."""
ALPHA_PAIRED = 0.01
"""The same among all paired comparisons."""
_EQUIVALENCE = 0.05


@dataclass(frozen=True)
class Shift:
    """A change of a line."""

    at: int
    """The first dot after it."""
    difference: Difference
    """From the stretch before to that behind it; of a paired one, from that of the first point."""

    def direction(self, better: Better) -> str:
        """`better`, `worse`, or `changed` of what is neither."""
        change = self.difference.plain or 0.0
        return way(change, better) if change else "changed"


@dataclass(frozen=True)
class Judged:
    """What is said of a line."""

    shifts: tuple[Shift, ...]
    untold: str | None
    """Why nothing can be said of its changes, wholly or in its last stretch; None where it can."""


def find_shifts(lines: Sequence[MetricLine]) -> list[Judged]:
    """The changes of each line, all lines judged together."""
    sampling = Sampling(alpha=_EQUIVALENCE)
    tests = sum(
        line.values[at] != line.values[at - 1]
        for line in lines
        if not _varies(line)
        for stretch in line.stretches
        for at in stretch[1:]
    )
    judged: list[Judged | None] = []
    for line in lines:
        paired = None if _varies(line) else _paired(line, ALPHA_PAIRED / max(tests, 1), sampling)
        judged.append(None if paired is None else Judged(tuple(paired), None))
    varying = [line for line, one in zip(lines, judged, strict=True) if one is None]
    found = iter(_varying(varying))
    return [next(found) if one is None else one for one in judged]


def _varies(line: MetricLine) -> bool:
    return variation(line.dots[-1].point.records[0], line.metric) == "process"


def _paired(line: MetricLine, alpha: float, sampling: Sampling) -> list[Shift] | None:
    """None where some difference of its points has no known chance error."""
    shifts = []
    margin = line.allowance.amount
    for stretch in line.stretches:
        first = stretch.start
        for at in stretch[1:]:
            new, old = line.values[at], line.values[first]
            if new == old:
                continue
            plain = abs(new / old - 1) if line.allowance.relative and old else abs(new - old)
            if plain < margin / 2:
                continue  # what is real at such a size lies within the margin
            found = _change(line.dots[at], line.dots[first], line.metric.name, sampling)
            if found is None or found.estimate is None:
                return None
            if two_sided(found.estimate) <= alpha and _is_large(line, found):
                shifts.append(Shift(at, found))
                first = at
    return shifts


def _change(new: Dot, old: Dot, metric: str, sampling: Sampling) -> Difference | None:
    found = one_change(new.point.records, old.point.records, metric, sampling, same_run=False)
    return None if isinstance(found, Gap) else found


def _is_large(line: MetricLine, found: Difference) -> bool:
    if found.estimate is None:
        return False
    low, high = (found.bound(end) for end in (-line.allowance.amount, line.allowance.amount))
    return equivalence(found.estimate, low, high) > _EQUIVALENCE


def _varying(lines: Sequence[MetricLine]) -> list[Judged]:
    parts = [(line, stretch) for line in lines for stretch in line.stretches]
    series = [
        Points(
            tuple(line.dots[at].place.number for at in stretch),
            _scaled(line)[stretch.start : stretch.stop],
        )
        for line, stretch in parts
    ]
    changes: dict[int, list[Shift]] = {}
    for (line, stretch), places in zip(
        parts, find_changes(series, alpha=ALPHA_VARYING), strict=True
    ):
        at = [stretch.start + place for place in places]
        changes.setdefault(id(line), []).extend(_large(line, stretch, at))
    return [Judged(tuple(changes[id(line)]), _untold(line)) for line in lines]


def _untold(line: MetricLine) -> str | None:
    last = line.stretches[-1]
    if len(last) >= FEWEST_POINTS:
        return None
    alike = " that compare with the last one" if len(line.stretches) > 1 else ""
    lacking = FEWEST_POINTS - len(last)
    return (
        f"it varies from run to run, and a change is told from that by {FEWEST_POINTS} points or"
        f" more: there are {len(last)}{alike}, {lacking} more are needed; `qbench compare` holds"
        " two runs against each other"
    )


def _scaled(line: MetricLine) -> tuple[float, ...]:
    return tuple(map(math.log, line.values)) if line.is_relative else line.values


def _large(line: MetricLine, stretch: range, places: Sequence[int]) -> list[Shift]:
    """The changes that are more than small: the least that is not is taken out until all are."""
    kept = list(places)
    while True:
        ends = [stretch.start, *kept, stretch.stop]
        found = [
            Shift(at, _between(line, range(before, at), range(at, after)))
            for before, at, after in zip(ends[:-2], ends[1:-1], ends[2:], strict=True)
        ]
        small = [one for one in found if not _is_large(line, one.difference)]
        if not small:
            return found
        kept.remove(min(small, key=lambda one: abs(one.difference.plain or 0.0)).at)


def _between(line: MetricLine, before: range, after: range) -> Difference:
    """From one stretch to the next, by Welch's t over their points."""
    relative, scaled = line.is_relative, _scaled(line)
    sides = [[scaled[at] for at in side] for side in (after, before)]
    means = [statistics.fmean(side) for side in sides]
    new, old = (math.exp(mean) if relative else mean for mean in means)
    method = "Welch's t over the points of both stretches" + (", of logarithms" if relative else "")
    return Difference(new, old, relative, welch(*sides), method, units=min(map(len, sides)))
