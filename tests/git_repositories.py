"""Git repositories, made with the `git` program in a test's own folder."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NOBODY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
_FIRST_TIME = 1_700_000_000


@dataclass
class MadeRepository:
    """A repository whose commits lie an hour apart."""

    root: Path
    made: int = 0

    def git(self, *arguments: str) -> str:
        """What git answers, without the line end behind it."""
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        time = f"{_FIRST_TIME + 3600 * self.made} +0200"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        times = {"GIT_AUTHOR_DATE": time, "GIT_COMMITTER_DATE": time}
        done = subprocess.run(
            command, cwd=self.root, env=clean | _NOBODY | times, check=True, capture_output=True
        )
        return done.stdout.decode(errors="surrogateescape").removesuffix("\n")

    def commit(self, subject: str, files: dict[str, str | bytes | None] | None = None) -> str:
        """The hash of a new commit of everything there, after writing and removing files."""
        for name, contents in (files or {}).items():
            path = self.root / name
            if contents is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        self.made += 1
        self.git("add", "--all")
        self.git("commit", "--allow-empty", "--cleanup=verbatim", "-m", subject)
        return self.git("rev-parse", "HEAD")


def make_repository(root: Path) -> MadeRepository:
    """A new repository without commits, in a folder that is made where there is none."""
    root.mkdir(parents=True, exist_ok=True)
    repository = MadeRepository(root)
    repository.git("init")
    return repository
