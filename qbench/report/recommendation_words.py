"""Figures, limits and checks of a recommendation as a person reads them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.compare.recommend.limits import BY_DEFAULT
from qbench.compare.recommend.recommend import relaxed_to
from qbench.compare.speed import LEGEND
from qbench.compare.verdicts import amount_text
from qbench.core.names import shortened
from qbench.core.units import choose_scale

if TYPE_CHECKING:
    from qbench.compare.recommend.axis import Axis
    from qbench.compare.recommend.choices import Choice
    from qbench.compare.recommend.limits import Limit
    from qbench.compare.recommend.ranges import Range
    from qbench.compare.recommend.recommend import Candidate, Check, Needed, Recommendation

_LONGEST_REASON = 160
_LONGEST_WARNING = 200
_MOST_WARNINGS = 3
_DIGITS = 3
"""Significant digits of a limit that a cell would meet."""


def limit_words(axis: Axis, limit: Limit) -> str:
    """A limit as a person reads it."""
    word = "at most" if limit.kind == "max" else "at least"
    named = {"max_", "min_"}.isdisjoint({limit.source[:4]}) and limit.source != BY_DEFAULT
    whose = f" (the memory of {limit.source})" if named else ""
    unit = " nat" if axis.unit == "nat" else ""
    return f"{axis.title} {word} {shown(axis, limit.bound)}{unit}{whose}"


def shown(axis: Axis, value: float) -> str:
    """A value of an axis with its unit, signed where it is a change."""
    if axis.display in ("bytes", "seconds"):
        return choose_scale([value], axis.display).with_unit(value)
    text = amount_text(value, relative=axis.display == "change", signed=axis.of_change)
    return f"{text} J" if axis.unit == "J" else text


def with_interval(axis: Axis, known: Range) -> str:
    """A figure with its interval in brackets, or why there is none."""
    if known.value is None:
        return brief(known)
    text = shown(axis, known.value) + (" ≠" if known.unlike_served else "")
    if known.low is None or known.high is None:
        return f"{text} (interval not known)"
    if known.low == known.high:
        return text
    return f"{text} ({shown(axis, known.low)} to {shown(axis, known.high)})"


def check_words(check: Check) -> str:
    """What a cell fails by, or what would decide."""
    axis, known = check.axis, check.range
    if known.value is None:
        return f"{axis.short}: {brief(known)}"
    text = f"{axis.short} {with_interval(axis, known)}"
    bound = shown(axis, check.limit.bound)
    if check.verdict == "fails":
        side = "above" if check.limit.kind == "max" else "below"
        return f"{text}, {_distance(check)} {side} {bound}"
    if known.low is None or known.high is None:
        return f"{text}, limit {bound}: {brief(known)}"
    return f"{text} reaches over {bound}: {needed_words(check.needed)}"


def brief(known: Range) -> str:
    """Why something is not known; the rest stands among the failures."""
    return shortened(known.reason or "not measured", _LONGEST_REASON)


def _distance(check: Check) -> str:
    axis, beyond = check.axis, check.beyond
    if beyond is None:
        return ""
    if axis.display == "change":
        return f"{100 * beyond:.3g} points"
    if axis.display in ("bytes", "seconds"):
        return shown(axis, beyond)
    return f"{beyond:.3g}"


def needed_words(needed: Needed | None) -> str:
    """What more data would decide."""
    if needed is None:
        return "undecided"
    if needed.more is None:
        return f"so near that no number of {needed.unit} decides"
    step = 10 ** max(0, len(str(needed.more)) - 2)
    more = math.ceil(needed.more / step) * step
    return f"about {more:,} more {needed.unit} would decide ({needed.there:,} are there)"


def relaxed_words(check: Check) -> str:
    """The limit that a cell would meet."""
    bound = relaxed_to(check)
    if bound is None:
        return ""
    word = "at most" if check.limit.kind == "max" else "at least"
    about = "about " if check.range.high is None else ""
    return f"{check.axis.short} {word} {about}{shown(check.axis, _outwards(check, bound))}"


def _outwards(check: Check, bound: float) -> float:
    """The bound rounded to the side on which the cell still meets it."""
    axis = check.axis
    unit = 0.01 if axis.display == "change" else 1.0
    if axis.display in ("bytes", "seconds"):
        unit = choose_scale([bound], axis.display).divisor
    size = bound / unit
    if not size or not math.isfinite(size):
        return bound
    step = 10.0 ** (math.floor(math.log10(abs(size))) - _DIGITS + 1)
    if not step:  # of the smallest numbers that there are
        return bound
    rounded = math.ceil if check.limit.kind == "max" else math.floor
    return rounded(round(size / step, 6)) * step * unit


def warning_words(cell: Choice) -> str:
    """What the records of a cell warn of, in a sentence; empty where they do not."""
    shown = [shortened(text, _LONGEST_WARNING) for text in cell.warnings[:_MOST_WARNINGS]]
    more = [f"{len(cell.warnings) - len(shown)} more"] if len(cell.warnings) > len(shown) else []
    return f"Its records warn: {'; '.join([*shown, *more])}." if shown else ""


def served_words(found: Recommendation, best: Candidate) -> str:
    """That a cell is chosen by times that are not those of its format; empty where it is not."""
    ways = [found.axis.key, *found.choices.limits]
    axes = [found.choices.axis(key) for key in dict.fromkeys(ways)]
    told = {
        axis.short: reason
        for axis in axes
        if (reason := best.cell.ranges[axis.key].unlike_served) is not None
    }
    if not told:
        return ""
    reason = next(iter(told.values()))
    return f"Chosen by {' and '.join(told)}, which is {LEGEND} (≠): {reason}."


def costs_words(found: Recommendation, best: Candidate) -> str:
    """What a cell costs, beside the reference."""
    axes = [axis for axis in found.choices.axes if axis.kind == "cost"]
    told = [text for axis in axes if (text := cost_words(found, best, axis))]
    return f"It takes: {'; '.join(told)}" if told else ""


def cost_words(found: Recommendation, best: Candidate, axis: Axis) -> str:
    """One cost of a cell, beside the reference's; empty where it is not known."""
    known = best.cell.ranges[axis.key]
    if known.value is None:
        return ""
    text = f"{axis.short} {with_interval(axis, known)}"
    reference = _reference(found)
    base = reference.ranges[axis.key].value if reference else None
    if reference is None or best.cell.reference or not base:
        return text
    share = known.value / base
    times = f"{100 * share:.3g} % of" if share < 1 else f"{share:.3g} times"
    return f"{text}, {times} {reference.label}'s"


def loss_words(found: Recommendation, best: Candidate) -> str:
    """What a cell loses against the reference; of tuned models, against the best."""
    if not is_quality_known(found):
        return "What it loses is not known: no quality was measured"
    if best.cell.reference:
        return "It is the reference itself: nothing is lost"
    told = changes(found, best)
    reference = _reference(found)
    against = f" against {reference.label}" if reference else ""
    return f"What changes{against}: {'; '.join(told)}" if told else ""


def changes(found: Recommendation, best: Candidate, *, limited: bool = False) -> list[str]:
    """What changes, with intervals; of the qualities that are `limited` alone."""
    return [
        f"{axis.short} {with_interval(axis, known)}"
        for axis in found.choices.axes
        if axis.kind == "quality"
        and (known := best.cell.ranges[axis.key]).value is not None
        and (axis.key in found.choices.limits or not limited)
    ]


def is_quality_known(found: Recommendation) -> bool:
    """Whether anything was measured of what is lost."""
    qualities = [axis.key for axis in found.choices.axes if axis.kind == "quality"]
    cells = found.choices.cells
    return any(cell.ranges[key].value is not None for cell in cells for key in qualities)


def _reference(found: Recommendation) -> Choice | None:
    return next((cell for cell in found.choices.cells if cell.reference), None)
