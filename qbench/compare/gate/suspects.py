"""What may have caused what a gate found: the commits, the conditions, and what speaks of each.

Between the two sides several things differ at once as a rule. A measurement on the way, with some
of them changed and the others not, says of each part what it does by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import find_gap
from qbench.compare.compare import index_records
from qbench.compare.differences import difference
from qbench.compare.history.conditions import changes_between
from qbench.compare.span import find_span
from qbench.compare.verdicts import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qbench.compare.gate.gate import Check, GateOutcome
    from qbench.compare.span import Span
    from qbench.core.record import Record

COMMITS = "the commits"
_OF_COMMITS = ("model", "settings")
"""Kinds of changes that come with a commit: of the weights and of the suite."""


@dataclass(frozen=True)
class Evidence:
    """What changed alone between two measurements, and what a rule says of that."""

    changed: tuple[str, ...]
    """`torch 2.12.0 → 2.13.0`, or `COMMITS`."""
    held: tuple[str, ...]
    """What differs between the gate's two sides, and was the same here."""
    check: Check


@dataclass(frozen=True)
class Suspects:
    """All that is known of what lies between the two sides of a gate that failed."""

    span: Span
    evidence: tuple[Evidence, ...] = ()
    bisect: tuple[str, ...] = ()
    """Lines for a shell, by which git finds the commit; none where that cannot be."""


def find_suspects(
    outcome: GateOutcome,
    records: Sequence[Record],
    baseline: Sequence[Record],
    history: Sequence[Record],
    folder: Path,
) -> Suspects | None:
    """What may have caused the failures of a gate; None where none is counted from a baseline.

    `history` is whatever else was measured of the suite, and `folder` lies in the repository.
    """
    new, old, other = index_records(records), index_records(baseline), index_records(history)
    failed = [
        (check, mine, theirs, other.get(check.cell, {}).get(check.item, []))
        for check in outcome.checks
        if check.state == "fail" and check.rule.counted_from == "baseline"
        if check.cell is not None and check.item is not None and check.verdict.difference
        if (mine := new.get(check.cell, {}).get(check.item))
        and (theirs := old.get(check.cell, {}).get(check.item))
    ]
    if not failed:
        return None
    mine = [one for _, found, _, _ in failed for one in found]
    theirs = [one for _, _, found, _ in failed for one in found]
    against = outcome.against
    span = find_span(mine, theirs, folder, None if against is None else against.committed_at)
    evidence = [one for found in failed for one in _evidence(*found, outcome)]
    return Suspects(span, tuple(evidence))


def _evidence(
    check: Check,
    new: Sequence[Record],
    old: Sequence[Record],
    others: Sequence[Record],
    outcome: GateOutcome,
) -> Iterator[Evidence]:
    if check.metric is None or check.rule.counts_flips or check.verdict.name != "broken":
        return
    every = _differences(new, old)
    told: set[frozenset[str]] = set()
    commits = {one.environment.git_revision for one in (*new, *old)}
    on_the_way = [one for one in others if one.environment.git_revision in commits]
    for halfway in _groups(on_the_way):
        first, second = _differences(halfway, old), _differences(new, halfway)
        # Each thing changed on one of the two ways, from what it was to what it is.
        if not first or not second or first & second or first | second != every:
            continue
        if first in told:
            continue
        told |= {first, second}
        for changed, after, before in ((first, halfway, old), (second, new, halfway)):
            judged = _judged(check, check.metric, after, before, outcome)
            yield Evidence(tuple(sorted(changed)), tuple(sorted(every - changed)), judged)


def _judged(
    check: Check,
    metric: str,
    new: Sequence[Record],
    old: Sequence[Record],
    outcome: GateOutcome,
) -> Check:
    """The check of another pair, by itself."""
    sampling, relative = outcome.sampling, check.margin.relative
    found = find_gap(new, old, metric) or difference(
        new, old, metric, relative=relative, sampling=sampling
    )
    return replace(check, verdict=judge([(check.margin, found)], alpha=sampling.alpha)[0])


def _differences(new: Sequence[Record], old: Sequence[Record]) -> frozenset[str]:
    """What differs between two measurements; what comes with a commit is the commit's."""
    revisions = [{one.environment.git_revision for one in side} for side in (new, old)]
    other_commit = revisions[0] != revisions[1]
    found = {
        one.words
        for one in changes_between(new, old)
        if not (other_commit and one.kind in _OF_COMMITS)
    }
    return frozenset(found | ({COMMITS} if other_commit else set()))


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Measurements of an item under the same conditions, the newest first, each repeat once."""
    found: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda one: one.started_at, reverse=True):
        environment = record.environment.model_dump_json(exclude={"device_memory_bytes"})
        weights = str(record.identity.get("model"))
        repeats = found.setdefault(f"{environment} {weights}", {})
        repeats.setdefault(record.item.repeat, record)
    return [list(repeats.values()) for repeats in found.values()]
