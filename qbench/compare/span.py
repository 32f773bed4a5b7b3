"""What lies between two sides of a comparison: the commits, and what else their records differ in.

It says what could have moved a number, not what did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.history.conditions import changes_between
from qbench.core.errors import UsageError
from qbench.core.git import SHORT_HASH, repository_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.history.conditions import Change
    from qbench.core.git import Commit, Repository
    from qbench.core.record import Record

_CHANGED = "+"
"""Behind a commit where tracked files had changed."""


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


def find_span(
    new: Sequence[Record], old: Sequence[Record], folder: Path, at: Commit | None = None
) -> Span:
    """The span between the records of two sides, in the repository that holds the folder.

    `at` is the commit of an old side that was committed, for records that name none of before it.
    """
    ends, unknown = _ends(new, old, folder, at)
    commits: tuple[Commit, ...] = ()
    if ends is not None:
        repository, first, last = ends
        commits = tuple(repository.commits(last.hash, since=first.hash))
        if not commits and first.hash != last.hash:
            unknown = f"{last.told}, of the new side, is older than {first.told}, of the old one"
    revisions = (one.environment.git_revision or "" for one in (*new, *old))
    uncommitted = dict.fromkeys(one[:SHORT_HASH] for one in revisions if one.endswith(_CHANGED))
    return Span(
        old=None if ends is None else ends[1],
        new=None if ends is None else ends[2],
        commits=commits,
        unknown=unknown,
        uncommitted=tuple(uncommitted),
        changes=changes_between(new, old),
    )


def _ends(
    new: Sequence[Record], old: Sequence[Record], folder: Path, at: Commit | None
) -> tuple[tuple[Repository, Commit, Commit] | None, str | None]:
    """The first commit of the old side and the last of the new one, or why they are not known."""
    mine, theirs = (
        {(one.environment.git_revision or "").removesuffix(_CHANGED) for one in side} - {""}
        for side in (new, old)
    )
    if not mine or not (theirs or at):
        return None, f"the {'old' if mine else 'new'} records name no commit"
    try:
        repository = repository_of(folder)
        last = _known(repository, mine, "new")[-1]
        held = repository.holds(last, theirs)
        first = held[0] if held else at.hash if at else _known(repository, theirs, "old")[0]
        return (repository, repository.commit(first), repository.commit(last)), None
    except UsageError as error:
        return None, str(error)


def _known(repository: Repository, hashes: set[str], side: str) -> list[str]:
    """Those that the repository has, parents before their children as far as one holds another."""
    known = []
    for one in sorted(hashes):
        try:
            known.append(repository.resolve(one))
        except UsageError:
            continue
    if not known:
        named = ", ".join(sorted(one[:SHORT_HASH] for one in hashes))
        raise UsageError(f"{repository.root} has no commit {named}, which the {side} records name")
    return max((repository.holds(one, known) for one in known), key=len)
