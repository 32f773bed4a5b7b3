"""A history for programs: a row for each point, and what changed where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.report.claims_words import LEVEL_TAIL
from qbench.report.suspects import span_data

if TYPE_CHECKING:
    from qbench.compare.history.history import History, JudgedLine
    from qbench.compare.history.lines import MetricLine
    from qbench.compare.history.points import Place
    from qbench.compare.history.shifts import Shift


def history_data(history: History, method: str) -> dict[str, Any]:
    """The whole; `method` says how changes were told."""
    return {
        "suite": history.suite,
        "points": history_rows(history),
        "changes": [
            {
                "new": _place(turn.new),
                "old": _place(turn.old),
                "between": span_data(turn.span),
                "lines": [{**_line(line), **_change(line, shift)} for line, shift in turn.changes],
            }
            for turn in history.turns
        ],
        "untold": [
            {**_line(one.line), "why": one.judged.untold}
            for one in history.lines
            if one.judged.untold is not None
        ],
        "notes": list(history.notes),
        "method": method,
    }


def history_rows(history: History) -> list[dict[str, Any]]:
    """One for each point of each line, in the order of the history; what is missing is None.

    `change` and what follows it stand where the line changed: from the stretch before, with its
    95 % interval; a relative one is a ratio less 1. `low` and `high` are the 95 % interval of the
    value as far as its own run tells.
    """
    return [{"suite": history.suite, **row} for one in history.lines for row in _rows(one)]


def _rows(one: JudgedLine) -> list[dict[str, Any]]:
    line = one.line
    shifts = {shift.at: shift for shift in one.judged.shifts}
    breaks = {each.at: each.reason for each in line.breaks}
    rows = []
    for at, dot in enumerate(line.dots):
        record = dot.point.records[0]
        environment = record.environment
        rows.append(
            {
                **_line(line),
                "unit": line.metric.unit,
                "better": line.metric.better,
                **_place(dot.place),
                "protocol": record.protocol,
                "repeats": len(dot.point.records),
                "value": dot.value,
                "low": dot.interval.low,
                "high": dot.interval.high,
                "no_interval": dot.interval.reason,
                "begins_anew": breaks.get(at),
                "is_change": at in shifts,
                **_change(line, shifts.get(at)),
                "qbench": environment.qbench,
                "python": environment.python,
                "driver": environment.driver,
                "threads": environment.threads,
                "versions": dict(environment.versions),
            }
        )
    return rows


def _line(line: MetricLine) -> dict[str, Any]:
    return {"device": line.device, **line.name._asdict(), "metric": line.metric.name}


def _place(place: Place) -> dict[str, Any]:
    commit = place.commit
    return {
        "number": place.number,
        "commit": None if commit is None else commit.hash,
        "commit_time": None if commit is None else commit.time,
        "subject": None if commit is None else commit.subject,
        "uncommitted_changes": place.changed,
        "started_at": place.started_at,
    }


def _change(line: MetricLine, shift: Shift | None) -> dict[str, Any]:
    found = None if shift is None else shift.difference
    low, high = (None, None) if found is None else found.ends(LEVEL_TAIL)
    return {
        "change": None if found is None else found.plain,
        "change_low": low,
        "change_high": high,
        "relative": None if found is None else found.relative,
        "direction": None if shift is None else shift.direction(line.metric.better),
    }
