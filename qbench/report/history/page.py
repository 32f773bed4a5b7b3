"""The history of a suite as a page, and as a screen has room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.history.conditions import changes_between
from qbench.compare.history.shifts import ALPHA_PAIRED, ALPHA_VARYING
from qbench.core.page import Heading, Page, Table, Words, bullets, words_table
from qbench.core.units import counted
from qbench.report.charts.history import history_charts
from qbench.report.history.rows import history_data
from qbench.report.history.tables import LEGEND, lines_table, turn_table
from qbench.report.suspects import span_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.compare.history.history import History, JudgedLine
    from qbench.core.page import Part
    from qbench.core.record import Record

_MOST_ON_SCREEN = 40
"""Lines that a screen shows where more of them did not change."""
METHOD = (
    "A change is told where it is not chance, and more than small: where its 90 % interval does not"
    " lie wholly within the margin of equivalence (times ±5 %, memory ±2 %, perplexity ±0.5 %,"
    " bytes ±0). What does not vary from run to run is compared with the first point since its last"
    " change, pairwise by window or item. Times, and what else varies from run to run, are judged"
    " by their whole line: by how far a run of points is from the rest, against the same points in"
    " other orders, which are as alike as neighbours are. Where nothing changed, the chance that"
    f" anything is called a change is at most {100 * (ALPHA_VARYING + ALPHA_PAIRED):.0f} % over all"
    " lines together, and so it is for each stretch between changes; where a run is like the one"
    " before it, it is somewhat more (7 % at a correlation of 0.5, 10 % at 0.7)."
)


def history_page(history: History) -> Page:
    """The whole: every line, drawn and in a table, every change with what else changed there."""
    parts: list[Part] = [Words(summary(history)), *_changes(history)]
    for device, lines in _by_device(history.lines):
        parts += [Heading(f"On {device}"), *history_charts(lines), lines_table(lines)]
    parts += [Words(LEGEND, "quiet"), *_breaks(history), *_untold(history), *_notes(history)]
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
        parts += [Heading(f"On {device}"), lines_table(shown)]
        if len(shown) < len(lines):
            rest = counted(len(lines) - len(shown), "line")
            parts.append(
                Words(
                    f"{rest} more, without a change: --all, --only or --metric shows them", "quiet"
                )
            )
    parts += [Words(LEGEND, "quiet"), *_changes(history), Words(summary(history))]
    parts += [*_breaks(history, most=4), *_untold(history), *_notes(history)]
    return Page(f"History of {history.suite}", (*parts, Words(METHOD, "quiet")))


def _on_screen(lines: list[JudgedLine]) -> list[JudgedLine]:
    """Those that changed, and as many of the others as there is room for."""
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


def _changes(history: History) -> list[Part]:
    if not history.turns:
        return []
    parts: list[Part] = [Heading("Changes")]
    devices = len({one.line.device for one in history.lines})
    models = len({one.line.name.model for one in history.lines})
    for turn in history.turns:
        place = turn.new
        told = place.commit.told if place.commit else f"measured on {place.label}"
        if devices > 1:
            told += f", on {', '.join(dict.fromkeys(line.device for line, _ in turn.changes))}"
        table = turn_table(turn, named=models > 1)
        parts += [Heading(told, 3), table, bullets(span_lines(turn.span))]
    return parts


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
