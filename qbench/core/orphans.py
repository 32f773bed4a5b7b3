"""Processes that end when their parent does, so that no orphan holds a GPU."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 1.0


def die_with_parent(parent_pid: int, with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Sends this process a signal as soon as the process `parent_pid`, its parent, is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, with_signal)
    else:
        threading.Thread(target=_watch, args=(parent_pid, with_signal), daemon=True).start()
    if os.getppid() != parent_pid:  # it died before the request stood
        os._exit(1)


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants whose own parent ends, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> None:
    """Kills this process's children, and what it adopts of them, until there are none."""
    while children := _children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """Process ids, as Linux tells them; none elsewhere."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text(encoding="ascii").split())
    return found


def _watch(parent_pid: int, with_signal: signal.Signals) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), with_signal)
