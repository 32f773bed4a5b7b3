"""What may have caused a change, in words: commits, conditions, and what speaks of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from qbench.compare.gate.suspects import COMMITS
from qbench.compare.history.conditions import Kind
from qbench.core.page import Code, Heading, Words, bullets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.gate.suspects import Evidence, Suspects
    from qbench.compare.span import Span
    from qbench.core.page import Part

_TITLE = "What may have caused it"
_CONCLUSIONS = {
    "broken": "beyond the margin: this carries it",
    "holds": "within the margin: ruled out",
    "improved": "better: ruled out",
}
_CHECKS_SHOWN = 3
_NOTHING = (
    "Nothing that the records hold differs between the two sides: neither a commit nor a condition."
)
_BY_A_GATE = "To find the commit: `qbench gate` prints the line for `git bisect run`, by its rules."
_BESIDE_COMMITS = ("package", "machine")
_AT_THE_OLD_ONE = (
    "Should the run line find the old commit bad too, no commit carries it, but the packages or the"
    " machine."
)
_PLURAL: dict[Kind, str] = {
    "package": "packages",
    "machine": "machine",
    "model": "model",
    "settings": "settings",
}


def suspect_parts(suspects: Suspects, *, most: int | None = None) -> list[Part]:
    """A section; with `most` its lists are no longer than that."""
    parts: list[Part] = [Heading(_TITLE), bullets(suspect_lines(suspects, most=most))]
    if suspects.bisect:
        told = "To find the commit, each measured anew with the packages that are installed now:"
        parts += [Words(told), Code("\n".join(suspects.bisect))]
        if any(one.kind in _BESIDE_COMMITS for one in suspects.span.changes):
            parts.append(Words(_AT_THE_OLD_ONE, "quiet"))
    return parts


def span_parts(span: Span | None) -> list[Part]:
    """A section on what lies between two sides, where commits do; else nothing."""
    if span is None or not span.commits:
        return []
    parts: list[Part] = [Heading(_TITLE), bullets(span_lines(span))]
    if span.start is not None:
        parts += [Words(_BY_A_GATE), Code(span.start)]
    return parts


def suspect_lines(suspects: Suspects, *, most: int | None = None) -> list[str]:
    """What differs between the two sides, and what speaks of each; with `most` no more of these."""
    if not suspects.span.differs:
        return [_NOTHING]
    return [*span_lines(suspects.span), *evidence_lines(suspects.evidence)[:most]]


def span_lines(span: Span) -> list[str]:
    """The commits, and each kind of condition that differs."""
    lines = [commits_line(span)]
    if span.uncommitted:
        lines.append(f"changes that were not committed, on {', '.join(span.uncommitted)}")
    for kind in get_args(Kind):
        found = [one.words for one in span.changes if one.kind == kind]
        if found:
            lines.append(f"{_PLURAL[kind]}: {', '.join(found)}")
    if not span.changes:
        lines.append("nothing else that the records hold differs")
    return lines


def commits_line(span: Span) -> str:
    """How many commits lie between, with the first and the last."""
    if span.unknown is not None or span.old is None or span.new is None:
        return f"commits: not known, as {span.unknown}"
    count = len(span.commits)
    if not count:
        return f"no commit: both sides were measured at {span.new.told}"
    if count == 1:
        return f"1 commit: {span.commits[0].told}"
    first, last = span.commits[0].told, span.commits[-1].told
    return f"{count} commits since {span.old.short}: first {first}, last {last}"


def evidence_lines(evidence: Sequence[Evidence]) -> list[str]:
    """What changed alone, what was found of it, and what follows: a line for each such finding."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in evidence:
        verdict = one.check.verdict
        conclusion = _CONCLUSIONS.get(verdict.name, f"undecided: {verdict.reason}")
        place = (" and ".join(one.changed), conclusion)
        found.setdefault(place, []).append(f"{one.check.name} {one.check.found}")
    lines = []
    for (what, conclusion), checks in found.items():
        more = len(checks) - _CHECKS_SHOWN
        shown = ", ".join(checks[:_CHECKS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"{what} alone: {shown}; {conclusion}")
    return lines


def suspects_data(suspects: Suspects) -> dict[str, Any]:
    """The same for programs."""
    return {
        **span_data(suspects.span),
        "evidence": [
            {
                "changed": list(one.changed),
                "held": list(one.held),
                "commits_changed": COMMITS in one.changed,
                "check": one.check.name,
                "verdict": one.check.verdict.name,
                "found": one.check.found,
            }
            for one in suspects.evidence
        ],
        "bisect": list(suspects.bisect),
    }


def span_data(span: Span) -> dict[str, Any]:
    """The commits and the conditions between two sides, for programs."""
    ends = {"old_commit": span.old, "new_commit": span.new}
    return {
        **{name: None if one is None else one.hash for name, one in ends.items()},
        "commits": None
        if span.unknown is not None
        else [{"commit": one.hash, "subject": one.subject} for one in span.commits],
        "commits_unknown": span.unknown,
        "uncommitted": list(span.uncommitted),
        "changes": [
            {"kind": one.kind, "name": one.name, "new": one.new, "old": one.old}
            for one in span.changes
        ],
    }
