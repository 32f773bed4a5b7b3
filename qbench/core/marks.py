"""What a process tells another of its phases: one line a phase, written as soon as it begins.

The clock is `CLOCK_MONOTONIC`, which is one for all processes of a machine: the times of both can
be taken from each other. What is written stays when the process is killed.

    {"phase": "weights", "at_ns": 51230, "cpu_ns": 40210, "read_bytes": 4096}   begun then
    {"told": {…}}                                              what it found, last of all
    {"failed": {"status": "oom", "reason": "…"}}               or what went wrong
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_IO = "/proc/self/io"


class Marks:
    """Writes them; nothing but the standard library is imported for it."""

    def __init__(self, path: str) -> None:
        """`path` is the file, which is added to."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, phase: str, at_ns: int | None = None) -> None:
        """A phase begins, now or at a time that was taken before."""
        now_ns = time.monotonic_ns() if at_ns is None else at_ns
        counts = {"cpu_ns": time.process_time_ns(), "read_bytes": _read_bytes()}
        self._write({"phase": phase, "at_ns": now_ns, **counts})

    def tell(self, found: dict[str, Any]) -> None:
        """What was found, as JSON."""
        self._write({"told": found})

    def fail(self, status: str, reason: str) -> None:
        """What went wrong in the phase that was begun last."""
        self._write({"failed": {"status": status, "reason": reason}})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


@dataclass(frozen=True)
class Mark:
    """The beginning of a phase."""

    phase: str
    at_ns: int
    cpu_ns: int
    """CPU time that all threads of the process had taken by then."""
    read_bytes: int | None
    """Bytes that the process had read from storage by then; None where the system tells none."""


@dataclass(frozen=True)
class Told:
    """All that a process wrote."""

    marks: tuple[Mark, ...]
    told: dict[str, Any] | None
    failed: dict[str, Any] | None

    @property
    def phase(self) -> str | None:
        """What it was at when it ended; None where it told of nothing."""
        return self.marks[-1].phase if self.marks else None


def read_marks(path: Path) -> Told:
    """What was written up to now; a line that is not whole is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    marks = tuple(Mark(**line) for line in lines if "phase" in line)
    last = {key: value for line in lines for key, value in line.items()}
    return Told(marks, last.get("told"), last.get("failed"))


def _read_bytes() -> int | None:
    """Linux' count of what this process had fetched from storage: of the page cache none."""
    try:
        with open(_IO, encoding="ascii") as file:  # noqa: PTH123 - of a process that starts quickly
            lines = file.read().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)
