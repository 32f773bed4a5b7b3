"""Processes that a measurement starts for itself, and what becomes of them.

Each runs a module of `qbench.running.alone`, which writes marks (`qbench.core.marks`) and ends with
this process whatever happens. What it prints goes on to this process's own output, the cell's log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from qbench.core.errors import ProcessFailedError
from qbench.core.marks import Told, read_marks
from qbench.core.process_ends import TAIL_LINES, memory_kills, why_ended
from qbench.core.processes import OFFLINE, python_command, python_environment

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """What a process told that came to its end."""

    spawned_ns: int
    """When it was asked for, by the clock of its marks."""
    told: Told
    found: dict[str, Any]
    """What it told last."""


def run_module(module: str, request: Path, marks: Path, *, gpu: bool) -> Ended:
    """Runs a module of qbench's with a request, and waits for its end.

    Raises `ProcessFailedError`, with what it was at and the last lines of what it printed, where it
    failed or ended before its time.
    """
    who = f"the process of {module.rpartition('.')[2]}"
    kills_before = memory_kills()
    command = python_command(module, str(os.getpid()), str(request), str(marks))
    environment = python_environment(gpu=gpu) | OFFLINE
    spawned_ns = time.monotonic_ns()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    ) as process:
        try:
            tail = _pass_on(process)
        except BaseException:
            process.kill()
            raise
    log = "\n".join(tail) or None
    told = read_marks(marks)
    if told.failed is not None:
        failed = told.failed
        raise ProcessFailedError(
            failed["status"], failed["reason"], log_tail=log, phase=told.phase or "start"
        )
    if process.returncode != 0 or told.told is None:
        status, reason = (
            why_ended(process.returncode, kills_before, log or "", who)
            if process.returncode
            else ("crash", f"{who} ended with exit code 0 before it was done; its log may say why")
        )
        raise ProcessFailedError(
            cast("Any", status), reason, log_tail=log, phase=told.phase or "start"
        )
    return Ended(spawned_ns, told, told.told)


def _pass_on(process: subprocess.Popen[bytes]) -> deque[str]:
    """Passes on what a process prints until it ends; returns the last lines."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    if process.stdout is not None:
        for line in process.stdout:
            text = line.decode(errors="replace")
            tail.append(text.rstrip("\n"))
            with suppress(OSError):
                sys.stderr.write(text)
    return tail
