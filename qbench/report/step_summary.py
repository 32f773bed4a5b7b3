"""The outcome of a gate as markdown for the summary of a GitHub job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.report.markdown_parts import bullets, escape, words_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.comparison.gate import Check, GateOutcome

_HEADINGS = ("verdict", "check", "allowed", "found", "why")
_SIGNS = {"pass": "✅", "fail": "❌", "error": "⛔", "skip": "⏭️"}
LARGEST_BYTES = 1_000_000
"""GitHub refuses the summary of a step beyond 1 MiB."""


def render(outcome: GateOutcome, title: str = "qbench gate") -> str:
    """The answer first, then what does not hold, then the rest folded away."""
    wrong = [check for check in outcome.checks if check.state in {"fail", "error"}]
    right = [check for check in outcome.checks if check.state in {"pass", "skip"}]
    sign = _SIGNS["fail" if outcome.exit_code else "pass"]
    blocks = [f"## {sign} {escape(title)}", escape(outcome.summary)]
    if wrong:
        blocks.append(_table(wrong))
    if outcome.warnings:
        blocks += ["### Warnings", bullets(map(escape, outcome.warnings))]
    if outcome.conditions:
        rows = [(one.name, one.new, one.old) for one in outcome.conditions]
        blocks += [
            "### Conditions that differ",
            words_table(("condition", "now", "baseline"), rows),
        ]
    if right:
        summary = f"<details><summary>{len(right)} that hold or do not apply</summary>"
        blocks += [summary, _table(right), "</details>"]
    blocks.append(escape(outcome.method))
    text = "\n\n".join(blocks) + "\n"
    if len(text.encode()) <= LARGEST_BYTES:
        return text
    return f"## {sign} {escape(title)}\n\n{escape(outcome.summary)}\n\nToo long to show here.\n"


def _table(checks: Sequence[Check]) -> str:
    rows = [
        (
            f"{_SIGNS[check.state]} {check.verdict.name}",
            check.name,
            check.allowed,
            check.found,
            check.verdict.reason,
        )
        for check in checks
    ]
    return words_table(_HEADINGS, rows)
