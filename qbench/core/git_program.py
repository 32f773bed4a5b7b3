"""The `git` program: how it is started, waited for, and what it says when it fails."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from qbench.core.errors import Problem, UsageError
from qbench.core.untrusted import in_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_TIMEOUT_S = 120.0
"""For one answer of git, which a clone without all contents may have to fetch."""
_LEFT_OUT = re.compile(
    "GIT_((IMPLICIT_)?WORK_TREE|DIR|COMMON_DIR|INDEX_FILE|PREFIX|NAMESPACE|REPLACE_REF_BASE"
    "|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|SHALLOW_FILE|GRAFT_FILE"
    "|(NO)?GLOB_PATHSPECS|ICASE_PATHSPECS|TRACE.*)"
)
"""Variables by which a git that started qbench names its own repository (`git rev-parse
--local-env-vars`), and those that change what paths mean and what is written."""
_CHUNK_BYTES = 2**20
_BATCH = ["git", "cat-file", "--batch", "--buffer"]


def run_git(
    folder: Path, arguments: Sequence[str], *, timeout_s: float = _TIMEOUT_S
) -> subprocess.CompletedProcess[bytes]:
    """What git answers in a folder, whether or not it succeeds.

    Raises `OSError` where it cannot be started, and `subprocess.TimeoutExpired`.
    """
    command = ["git", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


def ask(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """As `run_git`; raises `UsageError` where git cannot be started, or does not answer."""
    try:
        return run_git(folder, arguments)
    except FileNotFoundError as error:
        raise git_problem("git", "no such program", "git on the PATH", "install git") from error
    except subprocess.TimeoutExpired as error:
        raise git_problem(
            str(folder), f"no answer within {_TIMEOUT_S:g} s", "an answer of git", "run `git fsck`"
        ) from error
    except OSError as error:
        raise git_problem(str(folder), str(error.strerror), "a folder to read", None) from error


def ask_whole(folder: Path, arguments: Sequence[str]) -> bytes:
    """What git answers to a question that a whole repository has an answer to.

    Raises `UsageError` where it has none.
    """
    done = ask(folder, arguments)
    if done.returncode != 0:
        raise git_problem(str(folder), words_of(done), "a whole repository", "run `git fsck`")
    return done.stdout


def blobs_of(
    folder: Path, blobs: Sequence[str], most_bytes: int
) -> Iterator[tuple[str, bytes | None]]:
    """What each of the blobs holds; None for one larger than `most_bytes`, which is read past.

    Raises `UsageError` for what the clone does not have.
    """
    if not blobs:
        return
    with _batch(folder, blobs) as answers:
        for blob in blobs:
            # `blob, type, size`, or `blob missing`
            about = answers.line().decode("ascii").split(" ")
            if len(about) != 3:
                raise git_problem(
                    str(folder),
                    f"no contents of {blob}",
                    "a whole clone",
                    "fetch them with `git fetch --refetch`, or clone again without a filter",
                )
            size = int(about[2])
            contents = answers.take(size, keep=size <= most_bytes)
            answers.take(1, keep=False)
            yield blob, contents


def words_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """The first line of what git failed for, past its warnings; empty where it said nothing."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return in_one_line((fatal or lines or [""])[0])


def git_problem(place: str, found: str, expected: str, remedy: str | None) -> UsageError:
    """The error for a repository that cannot be read as it was asked to be."""
    return UsageError(str(Problem(in_one_line(place), found, expected, remedy)))


class _Answers:
    """What a process writes, waited for no longer than a bounded time."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._handle = stream.fileno()
        self._read = bytearray()

    def line(self) -> bytes:
        while (end := self._read.find(b"\n")) < 0:
            self._more()
        return self._cut(end + 1)[:-1]

    def take(self, size: int, *, keep: bool) -> bytes | None:
        """The next bytes; read past, and None, where they are not to be kept."""
        if keep:
            while len(self._read) < size:
                self._more()
            return self._cut(size)
        while size > 0:
            if not self._read:
                self._more()
            size -= len(self._cut(min(size, len(self._read))))
        return None

    def _cut(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def _more(self) -> None:
        ready, _, _ = select.select([self._handle], [], [], _TIMEOUT_S)
        more = os.read(self._handle, _CHUNK_BYTES) if ready else b""
        if not more:
            found = "an end of its answer" if ready else f"no answer within {_TIMEOUT_S:g} s"
            raise git_problem("git cat-file", found, "the contents of a file", "run `git fsck`")
        self._read += more


@contextmanager
def _batch(folder: Path, blobs: Sequence[str]) -> Iterator[_Answers]:
    # The questions lie in a file, so that git never waits for them to be written.
    with tempfile.TemporaryFile() as questions:
        questions.write("".join(f"{blob}\n" for blob in blobs).encode("ascii"))
        questions.seek(0)
        with subprocess.Popen(
            _BATCH,
            cwd=folder,
            env=_environment(),
            stdin=questions,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                if process.stdout is not None:
                    yield _Answers(process.stdout)
            finally:
                process.kill()


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not _LEFT_OUT.fullmatch(name)}
    return {
        **own,
        # Reading must not take git's lock from under a user's own git command.
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
