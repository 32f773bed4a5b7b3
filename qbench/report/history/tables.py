"""Lines of a history as tables: all of them, and those that changed at one place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.compare.verdicts import amount_text, interval_text
from qbench.core.page import Column, Figure, Row, Table
from qbench.core.units import DISPLAYS, choose_scale
from qbench.report.claims_words import LEVEL_TAIL
from qbench.report.sparkline import sparkline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.history.history import JudgedLine, Turn
    from qbench.compare.history.lines import MetricLine
    from qbench.compare.history.shifts import Shift
    from qbench.core.page import Tone

_COLUMNS = (
    Column("metric", "metric", "text"),
    Column("item", "item", "text", below="metric"),
    Column("points", "points", "text", right=True, spare=1),
    Column("trend", "trend", "text"),
    Column("values", "from → to", "text", right=True),
    Column("change", "change", "text", right=True),
    Column("changed", "changed at", "text"),
)
_TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "changed": "warned"}
_SPARK = 15
"""Characters of a trend; of more points each is the mean of its share."""
LEGEND = (
    "From → to: the first value that compares with the last one, and the last; change is from the"
    " one to the other, chance included. A gap (·) in the trend: what is left of it does not"
    " compare with what is right of it; 2 of 5 points are those right of the last gap. Changed at:"
    " the commits at which a change is told, which is more than chance and more than small; - none,"
    " ? too few points to tell one."
)
"""How to read the tables."""


def lines_table(lines: Sequence[JudgedLine]) -> Table:
    """Lines, those that changed first."""
    several = len({one.line.name.model for one in lines}) > 1
    ordered = sorted(lines, key=lambda one: not one.judged.shifts)
    return Table("", "cell", _COLUMNS, tuple(_row(one, named=several) for one in ordered))


def _row(one: JudgedLine, *, named: bool) -> Row:
    line = one.line
    last = line.stretches[-1]
    alike = f"{len(last)} of " if line.breaks else ""
    figures = (
        Figure(word=line.metric.name),
        Figure(word=line.name.item),
        Figure(word=f"{alike}{len(line.dots)}"),
        Figure(word=_trend(line)),
        Figure(word=_from_to(line, last)),
        _since(line, last),
        _changed(one),
    )
    return Row(_label(line, named=named), reference=False, figures=figures)


def _label(line: MetricLine, *, named: bool) -> str:
    return f"{line.name.model} / {line.name.cell}" if named else line.name.cell


def _trend(line: MetricLine) -> str:
    """The values, with a gap where the line begins anew."""
    values = list(line.values)
    for one in reversed(line.breaks):
        values.insert(one.at, math.nan)
    return sparkline(values, width=_SPARK, low=min(line.values), high=max(line.values))


def _value(line: MetricLine, *values: float) -> str:
    """In one unit, with arrows between."""
    scale = choose_scale(values, DISPLAYS.get(line.metric.unit, "number"))
    return f"{' → '.join(map(scale.text, values))} {scale.symbol}".strip()


def _from_to(line: MetricLine, last: range) -> str:
    """The first value that compares with the last one, and the last; or that alone."""
    return _value(line, *(line.values[at] for at in dict.fromkeys((last[0], last[-1]))))


def _since(line: MetricLine, last: range) -> Figure:
    """From the first point that compares with the last one; of a single point nothing."""
    if len(last) < 2:
        return Figure(word="-")
    before, after = line.values[last[0]], line.values[last[-1]]
    if line.allowance.relative and before:
        change, relative = after / before - 1, True
    else:
        change, relative = after - before, False
    return Figure(change, amount_text(change, relative=relative))


def _changed(one: JudgedLine) -> Figure:
    line = one.line
    shifts = one.judged.shifts
    if not shifts:
        return Figure(word="?" if one.judged.untold else "-", reason=one.judged.untold)
    told = [
        f"{line.dots[shift.at].place.label} {_direction(line, shift)} {change_text(shift)[0]}"
        for shift in shifts
    ]
    return Figure(word="; ".join(told), tone=_TONES[_direction(line, shifts[-1])])


def _direction(line: MetricLine, shift: Shift) -> str:
    return shift.direction(line.metric.better)


def change_text(shift: Shift) -> tuple[str, str]:
    """A change and its interval in words; `exact` of one without chance in it."""
    found = shift.difference
    amount = amount_text(found.plain or 0.0, relative=found.relative)
    low, high = found.ends(LEVEL_TAIL)
    if low == high:
        return amount, "exact"
    return amount, interval_text(low, high, relative=found.relative) or ""


def turn_table(turn: Turn, *, named: bool) -> Table:
    """The lines that changed at a place; `named` names their models."""
    columns = (
        Column("metric", "metric", "text"),
        Column("item", "item", "text", below="metric"),
        Column("before", "before", "text", right=True),
        Column("after", "after", "text", right=True),
        Column("change", "change", "text", right=True),
        Column("interval", "95 % interval", "text", right=True, below="change"),
        Column("verdict", "verdict", "text"),
    )
    rows = []
    for line, shift in turn.changes:
        amount, interval = change_text(shift)
        found = shift.difference
        verdict = _direction(line, shift)
        figures = (
            Figure(word=line.metric.name),
            Figure(word=line.name.item),
            Figure(word=_value(line, found.old or 0.0)),
            Figure(word=_value(line, found.new or 0.0)),
            Figure(found.plain, amount),
            Figure(word=interval),
            Figure(word=verdict, tone=_TONES[verdict]),
        )
        rows.append(Row(_label(line, named=named), reference=False, figures=figures))
    return Table("", "cell", columns, tuple(rows))
