"""What a gate compares with, in words: a file, a folder, or the state at a revision of git."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench.core.git import Commit


@dataclass(frozen=True)
class Against:
    """The old side of a gate."""

    name: str
    """The file or folder; with the revision before it, as git has it, where it is committed."""
    revision: str | None = None
    """As it was asked for, such as `HEAD~1`; None for what lies on disk whenever it was taken."""
    commit: Commit | None = None
    """What the revision means."""
    source: str = ""
    """Where it was found, for a revision."""

    @property
    def words(self) -> str:
        """In one line: `HEAD~1, commit 0123456789 (Faster): the baseline committed in …`."""
        if self.commit is None:
            return self.name
        return f"{self.revision}, commit {self.commit.told}: {self.source}"
