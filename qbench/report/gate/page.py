"""The outcome of a gate as a page: every rule with what was allowed, found, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import (
    Column,
    Figure,
    Fold,
    Heading,
    Page,
    Row,
    Table,
    Words,
    bullets,
    words_table,
)
from qbench.report.charts.gate import gate_charts
from qbench.report.field_names import called_elsewhere, names_in_words
from qbench.report.suspects import suspect_parts, suspects_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.gate.gate import Check, GateOutcome, State
    from qbench.core.page import Part, Tone

SIGNS: dict[State, str] = {"pass": "✅", "fail": "❌", "error": "⛔", "skip": "⏭️"}
_TONES: dict[State, Tone] = {"pass": "good", "fail": "bad", "error": "bad", "skip": "quiet"}
_WRONG = frozenset({"fail", "error"})
_ORDER: dict[State, int] = {"skip": 0, "pass": 1, "error": 2, "fail": 3}
_COLUMNS = (
    Column("verdict", "verdict", "mark"),
    Column("allowed", "allowed", "text"),
    Column("found", "found", "text"),
    Column("why", "why", "text"),
)


def gate_page(outcome: GateOutcome, *, most: int | None = None) -> Page:
    """The answer first, then what does not hold, then the rest folded away.

    With `most` no list is longer than that, and what holds is only counted.
    """
    wrong = [check for check in outcome.checks if check.state in _WRONG]
    right = [check for check in outcome.checks if check.state not in _WRONG]
    shown, warnings, conditions = wrong[:most], outcome.warnings[:most], outcome.conditions[:most]
    parts: list[Part] = [Words(outcome.summary), *_against(outcome), *gate_charts(outcome)]
    if shown:
        parts += [_table(shown, signed=True), *_names(shown)]
    if outcome.suspects is not None:
        parts += suspect_parts(outcome.suspects, most=most)
    if warnings:
        parts += [Heading("Warnings"), bullets(warnings)]
    if conditions:
        rows = [(one.name, one.new, one.old) for one in conditions]
        parts += [
            Heading("Conditions that differ"),
            words_table(("condition", "now", "baseline"), rows),
        ]
    if right and most is None:
        title = f"{len(right)} that hold or do not apply"
        parts.append(Fold(title, (_table(right, signed=True), *_names(right))))
    if most is not None:
        left_out = {
            "of what does not hold": len(wrong) - len(shown),
            "of the warnings": len(outcome.warnings) - len(warnings),
            "of the conditions that differ": len(outcome.conditions) - len(conditions),
            "that hold or do not apply": len(right),
        }
        counted = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        parts.append(Words(f"Too long to show whole. Left out: {counted}.", "quiet"))
    sign = SIGNS["fail" if outcome.exit_code else "pass"]
    return Page(f"{sign} qbench gate", (*parts, Words(outcome.method)), gate_data(outcome))


def gate_on_screen(outcome: GateOutcome) -> Page:
    """What does not hold last and then the answer, so that they stand above the prompt."""
    checks = sorted(outcome.checks, key=lambda check: _ORDER[check.state])
    parts: list[Part] = [_table(checks), *_names(checks)]
    if outcome.conditions:
        lines = [f"{one.name}: {one.new}, was {one.old}" for one in outcome.conditions]
        parts += [Heading("Conditions that differ from the baseline's"), bullets(lines)]
    if outcome.suspects is not None:
        parts += suspect_parts(outcome.suspects)
    parts.append(bullets((f"warning: {warning}" for warning in outcome.warnings), "warned"))
    answer = Words(outcome.summary, "bad" if outcome.exit_code else "good")
    parts += _against(outcome)
    return Page("qbench gate", (*parts, Words(outcome.method, "quiet"), answer))


def gate_rows(outcome: GateOutcome) -> list[dict[str, Any]]:
    """The checks for programs."""
    level = 1 - 2 * outcome.sampling.alpha
    return [_check_data(check, level) for check in outcome.checks]


def gate_data(outcome: GateOutcome) -> dict[str, Any]:
    """The outcome for programs; a share stands for a relative amount, 0.01 for 1 %."""
    return {
        "passed": outcome.exit_code == 0,
        "exit_code": outcome.exit_code,
        "summary": outcome.summary,
        "counts": dict(outcome.counts),
        "checks": gate_rows(outcome),
        "warnings": list(outcome.warnings),
        "against": _against_data(outcome),
        "conditions": [
            {"condition": one.name, "now": one.new, "baseline": one.old}
            for one in outcome.conditions
        ],
        "suspects": None if outcome.suspects is None else suspects_data(outcome.suspects),
        "method": outcome.method,
    }


def _against(outcome: GateOutcome) -> list[Part]:
    """What a change was counted from, where it is a revision and no file that was named."""
    if outcome.against is None or outcome.against.commit is None:
        return []
    return [Words(f"Against {outcome.against.words}.", "quiet")]


def _against_data(outcome: GateOutcome) -> dict[str, Any] | None:
    against = outcome.against
    if against is None:
        return None
    commit = against.commit
    return {
        "name": against.name,
        "revision": against.revision,
        "commit": None if commit is None else commit.hash,
        "subject": None if commit is None else commit.subject,
        "source": against.source or None,
    }


def _check_data(check: Check, level: float) -> dict[str, Any]:
    verdict, margin = check.verdict, check.margin
    shown = verdict.difference
    return {
        "check": check.name,
        "rule": check.rule.metric,
        "model": None if check.cell is None else check.cell.model,
        "cell": None if check.cell is None else check.cell.label,
        "measurement": None if check.item is None else check.item.measurement,
        "item": None if check.item is None else check.item.slug,
        "metric": check.metric,
        "also_called": names_in_words(check.metric),
        "state": check.state,
        "verdict": verdict.name,
        "reason": verdict.reason,
        "warning": verdict.warning,
        "allowed": {
            "kind": margin.kind,
            "amount": margin.amount,
            "relative": margin.relative,
            "against": check.rule.counted_from,
        },
        "new": None if shown is None else shown.new,
        "old": None if shown is None else shown.old,
        "found": None if shown is None else shown.plain,
        "found_low": verdict.low,
        "found_high": verdict.high,
        "level": level,
        "chance_unit": None if shown is None else shown.unit,
        "units": None if shown is None or shown.unit is None else shown.units,
        "units_needed": verdict.units_needed,
        "detectable": verdict.detectable,
    }


def _table(checks: Sequence[Check], *, signed: bool = False) -> Table:
    return Table("", "check", _COLUMNS, tuple(_row(check, signed=signed) for check in checks))


def _names(checks: Sequence[Check]) -> list[Part]:
    """What else the metrics of the checks are called."""
    metrics = ((check.metric or "", None) for check in checks)
    return [Words(text, "quiet") for text in called_elsewhere(metrics)]


def _row(check: Check, *, signed: bool) -> Row:
    sign = f"{SIGNS[check.state]} " if signed else ""
    words = (check.allowed, check.found, check.verdict.reason)
    verdict = Figure(word=f"{sign}{check.verdict.name}", tone=_TONES[check.state])
    return Row(check.name, reference=False, figures=(verdict, *(Figure(word=w) for w in words)))
