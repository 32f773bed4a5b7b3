"""What a gate compares with, in words: a file, a folder, or the state at a revision of git."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench.core.git import Commit


@dataclass(frozen=True)
class Against:
    """The old side of a gate."""

    path: str
    """The file or folder, as it was named; of what is committed from the root of the repository."""
    revision: str | None = None
    """As it was asked for, such as `HEAD~1`; None for what lies on disk whenever it was taken."""
    commit: Commit | None = None
    """What the revision means."""
    source: str = ""
    """Where it was found, for a revision."""
    committed: bool = False
    """Whether it was read from the revision, and not from the disk."""

    @property
    def name(self) -> str:
        """The file or folder; with its revision before it, as git has it, where it is committed."""
        return f"{self.revision}:{self.path}" if self.committed else self.path

    @property
    def committed_at(self) -> Commit | None:
        """The commit that it was read from; None for what lies on the disk."""
        return self.commit if self.committed else None

    @property
    def words(self) -> str:
        """In one line: `HEAD~1, commit 0123456789 (Faster): the baseline committed in …`."""
        if self.commit is None:
            return self.name
        return f"{self.revision}, commit {self.commit.told}: {self.source}"
