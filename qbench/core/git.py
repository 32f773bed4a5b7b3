"""Git repositories, read with the `git` program: nothing in them is changed, and nothing locked.

A repository may be a stranger's: names are passed as they are, never as patterns or options, and
texts that are shown are cleaned.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.git_program import ask, ask_whole, blobs_of, git_problem, run_git, words_of
from qbench.core.untrusted import in_one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

SHORT_HASH = 10
"""Digits of a hash that are shown."""
CHANGED = "+"
"""Behind the commit that a record names where tracked files had changed."""
TO_FETCH_THE_REST = (
    "fetch the rest with `git fetch --unshallow` (in GitHub's checkout, fetch-depth: 0)"
)
"""The remedy for a shallow clone."""

_REVISION_TIMEOUT_S = 2.0
"""For the revision that a record names, which is looked up before a run."""
_OID = "# branch.oid "
_HEADER = "%H%x00%P%x00%ct%x00%s"
_HEADER_PARTS = 4
_LOG_SETTINGS = ("log.showSignature=false", "log.follow=false", "log.showRoot=true")
"""In place of a user's own, which would change what `git log` answers."""
_HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_REGULAR = "100"
"""What the mode of a regular file begins with; links and submodules have others."""


@dataclass(frozen=True)
class StoredFile:
    """A regular file of a commit."""

    path: str
    """From the root of the repository, with `/`; odd bytes as `os.fsdecode` gives them."""
    blob: str | None
    """Git's name of its contents; None for a file that a commit removed."""


@dataclass(frozen=True)
class Commit:
    """A commit, and which of the asked files it changed."""

    hash: str
    parents: tuple[str, ...]
    time: str | None
    """When it was committed: ISO 8601, UTC; None where the commit names no time that there is."""
    subject: str
    """The first lines of its message, in one line without control characters."""
    changed: tuple[StoredFile, ...] = ()
    """Regular files that it changed with respect to its first parent, where they were asked for."""

    @property
    def short(self) -> str:
        """The first digits of its hash."""
        return self.hash[:SHORT_HASH]

    @property
    def told(self) -> str:
        """The commit in words: `0123456789 (Read less)`."""
        return f"{self.short} ({self.subject})" if self.subject else self.short


def git_revision(folder: Path) -> str | None:
    """Commit of a folder, `+` behind it when tracked files changed; None outside a repository."""
    # `git describe --dirty` would write the index.
    arguments = ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "-z"]
    try:
        done = run_git(folder, arguments, timeout_s=_REVISION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    about = done.stdout.decode(errors="replace").split("\0")[:-1]
    hashes = [line.removeprefix(_OID) for line in about if line.startswith(_OID)]
    if done.returncode != 0 or hashes in ([], ["(initial)"]):
        return None
    return hashes[0] + ("" if all(line.startswith("# ") for line in about) else CHANGED)


def repository_of(path: Path) -> Repository:
    """The repository whose working tree holds a path, which need not exist.

    Raises `UsageError` where there is none, or no `git`, or git refuses to read it.
    """
    # Links are followed, as git follows them to the root that it names.
    try:
        real = Path(os.path.realpath(path))
    except OSError as error:
        raise git_problem(
            str(path), "that the current folder is gone", "a folder to start from", "change to one"
        ) from error
    folder = next(each for each in (real, *real.parents) if each.is_dir())
    done = ask(folder, ["rev-parse", "--show-toplevel"])
    if done.returncode != 0:
        found = words_of(done) or "no working tree of git"
        raise git_problem(str(path), found, "a path in a git repository", _remedy(done.stderr))
    return Repository(Path(os.fsdecode(done.stdout.removesuffix(b"\n"))))


def _remedy(complaint: bytes) -> str | None:
    """What to do where git finds no repository to read, by what it says."""
    told = complaint.decode(errors="replace")
    for line in told.splitlines():
        if "--add safe.directory" in line:  # it names the folder that it looks up, as a shell needs
            return f"`{in_one_line(line.strip())}`, if its owner is trusted"
    if "not a git repository" in told:
        return "run git init and commit, or start qbench in the repository"
    if "work tree" in told:
        return "start qbench in a clone that has its files checked out"
    return None


@dataclass(frozen=True)
class Repository:
    """A git repository with a working tree."""

    root: Path
    """The top folder of its working tree, without links."""

    def inside(self, path: Path) -> str:
        """A path as git names it: from the root, with `/`, and `.` for the root itself.

        Raises `UsageError` for one that lies elsewhere.
        """
        try:
            return Path(os.path.realpath(path)).relative_to(self.root).as_posix()
        except ValueError as error:
            raise git_problem(
                str(path), "a path outside it", f"a path within the repository {self.root}", None
            ) from error

    def is_shallow(self) -> bool:
        """Whether the clone lacks the commits before some: its history begins too late."""
        done = ask(self.root, ["rev-parse", "--is-shallow-repository"])
        return done.stdout.strip() == b"true"

    def resolve(self, revision: str) -> str:
        """The full hash of the commit that a revision means: `HEAD~1`, a tag, a branch, a hash.

        Raises `UsageError` for one that means none.
        """
        place = f"revision {in_one_line(revision)!r}"
        expected = "a revision of git, such as HEAD~1, a tag or a hash"
        if revision.startswith("-") or not revision.strip() or not revision.isprintable():
            raise git_problem(place, "what is no revision", expected, None)
        arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options"]
        done = ask(self.root, [*arguments, f"{revision}^{{commit}}"])
        found = done.stdout.decode("ascii").strip()
        if done.returncode != 0 or not _HASH.fullmatch(found):  # `^` before it, of `^HEAD`
            shallow = self.is_shallow()
            raise git_problem(
                place,
                f"no such commit in {self.root}"
                + (", which is a shallow clone" if shallow else ""),
                expected,
                TO_FETCH_THE_REST
                if shallow
                else "`git log --oneline` lists commits; `git fetch` brings those of others",
            )
        return found

    def commit(self, revision: str) -> Commit:
        """The commit that a revision means; raises `UsageError` for one that means none."""
        return self._log(["--no-walk", self.resolve(revision)])[0]

    def named(self, hashes: Iterable[str]) -> dict[str, Commit]:
        """The commits of full hashes that the repository has."""
        each = list(dict.fromkeys(hashes))
        found = self._log(["--no-walk=unsorted", *each, "--"]) if each else []
        return {commit.hash: commit for commit in found}

    def commits(
        self,
        until: str = "HEAD",
        *,
        since: str | None = None,
        below: Sequence[str] = (),
        changed: bool = False,
    ) -> list[Commit]:
        """The commits that `until` holds and `since` does not, parents before their children.

        `below` names files and folders as `inside` gives them: commits that changed none of them
        are left out, and side branches that changed none in the end. `changed` asks for the files
        that each changed there. Raises `UsageError` for a revision that means no commit.
        """
        span = [self.resolve(until), *([f"^{self.resolve(since)}"] if since else [])]
        files = ["--raw", "--no-abbrev", "--no-renames", "--diff-merges=first-parent"]
        files.append(f"-O{os.devnull}")  # in place of a user's own file of orders
        return self._log(
            ["--topo-order", "--reverse", *(files if changed else []), *span, "--", *below]
        )

    def holds(self, until: Sequence[str], hashes: Collection[str]) -> list[str]:
        """Those of the full hashes that any of `until` is or was made on top of, parents first."""
        arguments = ["rev-list", "--topo-order", "--reverse", *map(self.resolve, until)]
        every = ask_whole(self.root, arguments).decode("ascii").split()
        return [one for one in every if one in hashes]

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` is `old`, or was made on top of it."""
        hashes = [self.resolve(old), self.resolve(new)]
        return ask(self.root, ["merge-base", "--is-ancestor", *hashes]).returncode == 0

    def files(self, revision: str, below: str = ".") -> list[StoredFile]:
        """The regular files at or below a path of a commit, in the order of their paths.

        None at all where the commit does not have the path. Links are not followed.
        """
        where = [] if below == "." else ["--", below]
        arguments = ["ls-tree", "-r", "-z", "--full-tree", self.resolve(revision), *where]
        lines = ask_whole(self.root, arguments).split(b"\0")[:-1]
        files = []
        for line in lines:
            about, _, path = line.partition(b"\t")
            mode, _, blob = about.decode("ascii").split(" ")
            if mode.startswith(_REGULAR):
                files.append(StoredFile(os.fsdecode(path), blob))
        return files

    def contents(self, blobs: Iterable[str], most_bytes: int) -> Iterator[tuple[str, bytes | None]]:
        """What blobs hold, in their order, each once; None for one larger than `most_bytes`.

        One process of git reads all. Raises `UsageError` for what the clone does not have.
        """
        yield from blobs_of(self.root, list(dict.fromkeys(blobs)), most_bytes)

    def _log(self, arguments: Sequence[str]) -> list[Commit]:
        own = [word for setting in _LOG_SETTINGS for word in ("-c", setting)]
        form = [f"--format={_HEADER}", "--encoding=UTF-8", "--no-color", "--no-notes"]
        return _commits(ask_whole(self.root, [*own, "log", "-z", *form, *arguments]))


def _commits(output: bytes) -> list[Commit]:
    tokens = iter(output.split(b"\0"))
    header: list[bytes] = []
    commits: list[tuple[list[bytes], list[StoredFile]]] = []
    for token in tokens:
        if len(header) % _HEADER_PARTS == 0:
            if token.lstrip(b"\n").startswith(b":"):
                # `:old mode, new mode, old blob, new blob, letter`, and the path by itself.
                _, mode, _, blob, letter = token.decode("ascii").split(" ")
                path = os.fsdecode(next(tokens))
                if letter == "D" or mode.startswith(_REGULAR):
                    commits[-1][1].append(StoredFile(path, None if letter == "D" else blob))
                continue
            if not token:
                continue
            header = []
        header.append(token)
        if len(header) == _HEADER_PARTS:
            commits.append((header, []))
    return [
        Commit(
            one.decode("ascii"),
            tuple(parents.decode("ascii").split()),
            _time(seconds),
            in_one_line(subject.decode(errors="replace")),
            tuple(files),
        )
        for (one, parents, seconds, subject), files in commits
    ]


def _time(seconds: bytes) -> str | None:
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
