"""The history of a suite as a page, and as a screen has room for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.compare.history.conditions import changes_between
from qbench.compare.history.shifts import ALPHA_PAIRED, ALPHA_VARYING
from qbench.compare.verdicts import amount_text, interval_text
from qbench.core.page import Column, Figure, Heading, Page, Row, Table, Words, bullets, words_table
from qbench.core.units import choose_scale, counted
from qbench.report.charts.history import history_charts
from qbench.report.history.rows import history_data
from qbench.report.sparkline import sparkline
from qbench.report.suspects import span_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.history.history import History, JudgedLine, Turn
    from qbench.compare.history.lines import MetricLine
    from qbench.compare.history.shifts import Shift
    from qbench.core.page import Part, Tone
    from qbench.core.record import Record
    from qbench.core.units import Display

_COLUMNS = (
    Column("metric", "metric", "text"),
    Column("item", "item", "text", below="metric"),
    Column("points", "points", "number", decimals=0, spare=1),
    Column("trend", "trend", "text"),
    Column("first", "first", "text", right=True),
    Column("last", "last", "text", right=True),
    Column("change", "change", "text", right=True),
    Column("changed", "changed at", "text"),
)
_DISPLAYS: dict[str, Display] = {"B": "bytes", "s": "seconds"}
_TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "changed": "warned"}
_MOST_ON_SCREEN = 40
"""Lines that a screen shows where more of them did not change."""
_SPARK = 15
"""Characters of a trend; of more points each is the mean of its share."""
_TAIL = 0.025
METHOD = (
    "A change is told where it is not chance, and more than small: where its 90 % interval does not"
    " lie wholly within the margin of equivalence (times ±5 %, memory ±2 %, perplexity ±0.5 %,"
    " bytes ±0). What does not vary from run to run is compared with the first point since its last"
    " change, pairwise by window or item. Times, and what else varies from run to run, are judged"
    " by their whole line: by how far a run of points is from the rest, against the same points in"
    " other orders, which are as alike as neighbours are. Where nothing changed, the chance that"
    f" anything is called a change is at most {100 * (ALPHA_VARYING + ALPHA_PAIRED):.0f} % over all"
    " lines together, and so it is for each stretch between changes."
)


def history_page(history: History) -> Page:
    """The whole: every line, drawn and in a table, every change with what else changed there."""
    parts: list[Part] = [Words(summary(history)), *_changes(history)]
    for device, lines in _by_device(history.lines):
        parts += [Heading(f"On {device}"), *history_charts(lines), _table(lines)]
    parts += [*_breaks(history), *_untold(history), *_notes(history)]
    parts += [Heading("Measurements"), _measurements(history)]
    parts.append(Words(METHOD, "quiet"))
    return Page(f"History of {history.suite}", tuple(parts), history_data(history, METHOD))


def history_on_screen(history: History, *, everything: bool = False) -> Page:
    """The lines; of many that did not change, the first, and the others are counted.

    `everything` shows them too.
    """
    parts: list[Part] = []
    for device, lines in _by_device(history.lines):
        shown = lines if everything else _on_screen(lines)
        parts += [Heading(f"On {device}"), _table(shown)]
        if len(shown) < len(lines):
            rest = counted(len(lines) - len(shown), "line")
            parts.append(
                Words(
                    f"{rest} more, without a change: --all, --only or --metric shows them", "quiet"
                )
            )
    parts += [*_changes(history), Words(summary(history))]
    parts += [*_breaks(history, most=4), *_untold(history), *_notes(history)]
    return Page(f"History of {history.suite}", (*parts, Words(METHOD, "quiet")))


def _on_screen(lines: list[JudgedLine]) -> list[JudgedLine]:
    """In their order, those that changed, and as many of the others as there is room for."""
    changed = sum(bool(one.judged.shifts) for one in lines)
    room = _MOST_ON_SCREEN - changed
    steady = [id(one) for one in lines if not one.judged.shifts][: max(room, 0)]
    return [one for one in lines if one.judged.shifts or id(one) in steady]


def summary(history: History) -> str:
    """How much there is, and how much of it changed, in two sentences."""
    commits = {place.commit.hash for place in history.places if place.commit is not None}
    dated = sum(place.commit is None for place in history.places)
    of = counted(len(commits), "commit") if commits else "no commit that is known"
    more = f", and {dated} of none" if dated and commits else ""
    shifts = sum(len(one.judged.shifts) for one in history.lines)
    changed = sum(bool(one.judged.shifts) for one in history.lines)
    told = (
        f"{counted(shifts, 'change')} in {counted(changed, 'line')}"
        if shifts
        else "No change is told"
    )
    return (
        f"{counted(len(history.lines), 'line')} over {counted(len(history.places), 'measurement')}"
        f" of {of}{more}. {told}."
    )


def _by_device(lines: Iterable[JudgedLine]) -> list[tuple[str, list[JudgedLine]]]:
    found: dict[str, list[JudgedLine]] = {}
    for one in lines:
        found.setdefault(one.line.device, []).append(one)
    return list(found.items())


def _table(lines: Sequence[JudgedLine]) -> Table:
    several = len({one.line.name.model for one in lines}) > 1
    return Table("", "cell", _COLUMNS, tuple(_row(one, named=several) for one in lines))


def _row(one: JudgedLine, *, named: bool) -> Row:
    line = one.line
    values = line.values
    last = line.stretches[-1]
    figures = (
        Figure(word=line.metric.name),
        Figure(word=line.name.item),
        Figure(float(len(values))),
        Figure(word=_trend(line)),
        Figure(word=_value(line, values[0])),
        Figure(word=_value(line, values[-1])),
        _since(line, values[last.start], values[-1]),
        _changed(one),
    )
    label = f"{line.name.model} / {line.name.cell}" if named else line.name.cell
    return Row(label, reference=False, figures=figures)


def _trend(line: MetricLine) -> str:
    """The values, with a gap where the line begins anew."""
    values = list(line.values)
    for one in reversed(line.breaks):
        values.insert(one.at, math.nan)
    return sparkline(values, width=_SPARK, low=min(line.values), high=max(line.values))


def _value(line: MetricLine, value: float) -> str:
    display = _DISPLAYS.get(line.metric.unit, "number")
    scale = choose_scale([value], display)
    return f"{scale.text(value)} {scale.symbol}".strip()


def _since(line: MetricLine, first: float, last: float) -> Figure:
    """From the first point that compares with the last one."""
    if line.allowance.relative and first:
        change, relative = last / first - 1, True
    else:
        change, relative = last - first, False
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
    low, high = found.ends(_TAIL)
    if low == high:
        return amount, "exact"
    return amount, interval_text(low, high, relative=found.relative) or ""


def _changes(history: History) -> list[Part]:
    if not history.turns:
        return []
    parts: list[Part] = [Heading("Changes")]
    for turn in history.turns:
        place = turn.new
        told = place.commit.told if place.commit else f"measured on {place.label}"
        parts += [Heading(told, 3), _turn_table(turn), bullets(span_lines(turn.span))]
    return parts


def _turn_table(turn: Turn) -> Table:
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
        rows.append(Row(line.name.cell, reference=False, figures=figures))
    return Table("", "cell", columns, tuple(rows))


def _breaks(history: History, most: int | None = None) -> list[Part]:
    """Where lines begin anew, by reason."""
    found: dict[str, list[str]] = {}
    for one in history.lines:
        for each in one.line.breaks:
            place = one.line.dots[each.at].place.label
            found.setdefault(f"{place}: {each.reason}", []).append(one.line.name.cell)
    if not found:
        return []
    lines = [f"{told} ({counted(len(cells), 'line')})" for told, cells in found.items()]
    shown = lines[:most]
    if len(shown) < len(lines):
        shown.append(f"and {len(lines) - len(shown)} more")
    title = "Where lines begin anew: what follows (here) does not compare with what was (there)"
    return [Heading(title), bullets(shown)]


def _untold(history: History) -> list[Part]:
    found: dict[str, int] = {}
    for one in history.lines:
        if one.judged.untold is not None:
            found[one.judged.untold] = found.get(one.judged.untold, 0) + 1
    if not found:
        return []
    lines = [f"{counted(number, 'line')}: {why}" for why, number in found.items()]
    return [Heading("What cannot be told (? in the table)"), bullets(lines)]


def _notes(history: History) -> list[Part]:
    return [Heading("Passed over, or not known"), bullets(history.notes)] if history.notes else []


def _measurements(history: History) -> Table:
    """When each was taken, and which packages were others than those of the one before."""
    records = {
        dot.place.number: dot.point.records[0] for one in history.lines for dot in one.line.dots
    }
    rows = []
    old: Record | None = None
    for place in history.places:
        new = records[place.number]
        changes = () if old is None else changes_between([new], [old])
        told = ", ".join(one.words for one in changes if one.kind == "package")
        subject = place.commit.subject if place.commit else ""
        started = place.started_at[:16].replace("T", " ")
        commit = place.label if place.commit else "-"
        rows.append((str(place.number), commit, subject, started, told))
        old = new
    headings = ("measurement", "commit", "subject", "measured", "other packages than before")
    return words_table(headings, rows, right=(0,))
