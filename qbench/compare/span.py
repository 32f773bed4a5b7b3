"""What lies between two sides of a comparison: the commits, and what else their records differ in.

It says what could have moved a number, not what did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.history.conditions import changes_between
from qbench.core.errors import UsageError
from qbench.core.git import CHANGED, SHORT_HASH, repository_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.history.conditions import Change
    from qbench.core.git import Commit, Repository
    from qbench.core.record import Record

_HASH = re.compile("[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Span:
    """From the old side's commit to the new one's, and the conditions that differ."""

    old: Commit | None
    """The earliest that the old records name; None where it is not known."""
    new: Commit | None
    """The last that the new records name."""
    commits: tuple[Commit, ...]
    """Those that the new one holds and the old one does not, parents before their children."""
    unknown: str | None
    """Why the commits are not known."""
    uncommitted: tuple[str, ...]
    """Commits, in short, upon which records were taken with changes that were not committed."""
    changes: tuple[Change, ...]

    @property
    def differs(self) -> bool:
        """Whether anything is known to lie between the two."""
        return bool(self.commits or self.changes or self.uncommitted or self.unknown)

    @property
    def start(self) -> str | None:
        """How git begins to look for one of the commits; None for fewer than two."""
        if self.old is None or self.new is None or len(self.commits) < 2:
            return None
        return f"git bisect start {self.new.short} {self.old.short}"


def find_span(
    new: Sequence[Record],
    old: Sequence[Record],
    folder: Path,
    at: Commit | None = None,
    new_at: Commit | None = None,
) -> Span:
    """The span between the records of two sides, in the repository that holds the folder.

    `at` is the commit of an old side that was committed, for records that name none of before it;
    `new_at` that of the new side, for records that name none that is known.
    """
    old_commit: Commit | None = None
    new_commit: Commit | None = None
    commits: tuple[Commit, ...] = ()
    unknown: str | None = None
    try:
        old_commit, new_commit, commits = _commits(new, old, folder, at, new_at)
        if not commits and old_commit != new_commit:
            unknown = f"{new_commit.told}, of the new side, is older than {old_commit.told}"
    except UsageError as error:
        unknown = str(error)
    revisions = (one.environment.git_revision or "" for one in (*new, *old))
    uncommitted = dict.fromkeys(one[:SHORT_HASH] for one in revisions if one.endswith(CHANGED))
    return Span(
        old=old_commit,
        new=new_commit,
        commits=commits,
        unknown=unknown,
        uncommitted=tuple(uncommitted),
        changes=changes_between(new, old),
    )


def _commits(
    new: Sequence[Record],
    old: Sequence[Record],
    folder: Path,
    at: Commit | None,
    new_at: Commit | None,
) -> tuple[Commit, Commit, tuple[Commit, ...]]:
    """The first commit of the old side, the last of the new one, and those between."""
    mine, theirs = (
        {(one.environment.git_revision or "").removesuffix(CHANGED) for one in side} - {""}
        for side in (new, old)
    )
    if not (mine or new_at) or not (theirs or at):
        side = "old" if mine or new_at else "new"
        raise UsageError(f"the {side} records name no commit")
    repository = repository_of(folder)
    try:
        last = _known(repository, mine, "new")[-1]
    except UsageError:
        if new_at is None:
            raise
        last = new_at.hash
    held = repository.holds([last], theirs)
    first = held[0] if held else at.hash if at else _known(repository, theirs, "old")[0]
    between = repository.commits(last, since=first)
    ends = repository.named((first, last))
    return ends[first], ends[last], tuple(between)


def _known(repository: Repository, hashes: set[str], side: str) -> list[str]:
    """Those that the repository has, parents before their children."""
    known = []
    for one in filter(_HASH.fullmatch, sorted(hashes)):
        try:
            known.append(repository.resolve(one))
        except UsageError:
            continue
    if not known:
        named = ", ".join(sorted(one[:SHORT_HASH] for one in hashes))
        raise UsageError(f"{repository.root} has no commit {named}, which the {side} records name")
    return repository.holds(known, known)
