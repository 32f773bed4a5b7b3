"""Why a process ended before its time: by which signal, and whether for want of memory."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Literal

from qbench.core.errors import names_no_memory

_NATIVE_END = re.compile(r"Error .+ at line \d+ in file |\s*what\(\):")
"""How bitsandbytes' library, and C++, begin their last line."""
TAIL_LINES = 20
"""Last lines of a log that a record keeps."""
_TAIL_BYTES = 2**16


def why_ended(
    exit_code: int, kills_before: int | None, log: str, who: str = "the worker"
) -> tuple[Literal["crash", "oom"], str]:
    """What the end of a process is, and the reason in words.

    `exit_code` is not 0; negative it is the signal that ended the process. `kills_before` is what
    `memory_kills` told when it was started, `log` what it printed.
    """
    complaint = memory_complaint(log)
    if complaint is not None:
        return "oom", f"a library ended {who}: {complaint}"
    if exit_code > 0:
        return "crash", f"{who} ended with exit code {exit_code}; its log says more"
    if -exit_code == signal.SIGKILL:
        kills = memory_kills()
        if kills_before is not None and kills is not None and kills > kills_before:
            return "oom", f"the system killed {who}: the machine had no memory left"
        by = "by a person or program, or by a limit of the machine or its container"
        return "crash", f"{who} was killed (SIGKILL): {by}"
    name = signal.Signals(-exit_code).name
    return "crash", f"{who} was ended by {name}; its log has the place in the code"


def memory_complaint(log: str) -> str | None:
    """What native code last wrote to a process's log, if it says that memory was lacking.

    bitsandbytes ends the process where CUDA has no memory for paged states; so does C++ for an
    exception that nobody catches.
    """
    said = [line.strip() for line in log.splitlines() if _NATIVE_END.match(line)]
    return next((line for line in reversed(said) if names_no_memory(line)), None)


def memory_kills() -> int | None:
    """Processes that Linux has killed for memory since it started; None where it is not told."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def tail_of_log(path: Path) -> str | None:
    """The last lines of a log, blank ones at its ends left out; None where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return "\n".join(lines[-TAIL_LINES:]).strip() or None
