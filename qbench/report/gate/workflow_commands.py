"""The outcome of a gate as GitHub workflow commands: lines that become annotations of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.report.suspects import suspect_lines

if TYPE_CHECKING:
    from qbench.compare.gate.gate import Check, GateOutcome
    from qbench.report.format import Gated

MOST = 10
"""GitHub shows ten annotations of a kind a step; the last one says how many more there are."""


def render(gated: Gated) -> str:
    """One line an annotation, errors first; the suite's file is its place in the diff."""
    outcome, file = gated.outcome, gated.file
    wrong = [
        (one.name, _told(one, outcome)) for one in outcome.checks if one.state in {"fail", "error"}
    ]
    lines = [_line("error", title, text, file) for title, text in _limited(wrong)]
    warnings = [("qbench gate", warning) for warning in outcome.warnings]
    lines += [_line("warning", title, text, file) for title, text in _limited(warnings)]
    if outcome.suspects is not None:
        told = "\n".join(suspect_lines(outcome.suspects))
        lines.append(_line("notice", "What may have caused it", told, file))
    return "".join(f"{line}\n" for line in lines)


def _told(check: Check, outcome: GateOutcome) -> str:
    verdict, against = check.verdict, outcome.against
    told = f"{verdict.name}: {verdict.reason}; allowed {check.allowed}, found {check.found}"
    if check.rule.counted_from == "baseline" and against is not None and against.commit is not None:
        told += f"; the baseline is {against.words}"
    return told


def _limited(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if len(found) <= MOST:
        return found
    more = f"{len(found) - MOST + 1} more: see the job's summary"
    return [*found[: MOST - 1], ("qbench gate", more)]


def _line(level: str, title: str, text: str, file: str) -> str:
    return f"::{level} file={_property(file)},title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    """As GitHub's toolkit escapes the text of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
