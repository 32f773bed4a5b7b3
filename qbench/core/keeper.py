"""A process that keeps another program, and ends all of it when it is told to, or left alone.

`python -m qbench.core.keeper PARENT_PID PATIENCE_S COMMAND …` runs the command in a session of its
own, and adopts what the command's processes leave behind. It ends with the command's exit code
(128 and the signal's number where a signal ended it). When it gets SIGTERM it asks the command's
processes to end, and kills what is left after its patience; when the process that started it is
gone it kills them at once, and when it is itself killed the command is too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from qbench.core.orphans import adopt_orphans, die_with_parent, end_children
from qbench.core.processes import python_command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

NOT_RUN = 127
"""Exit code where the command's program cannot be run, as shells have it."""
_POLL_S = 0.02


def kept(command: Sequence[str], patience_s: float) -> list[str]:
    """The command line that keeps a command for this process.

    It must be started by the thread that outlives it: Linux counts the end of the thread that
    started a process as the end of its parent.
    """
    return python_command("qbench.core.keeper", str(os.getpid()), str(patience_s), *command)


def main() -> NoReturn:
    """Runs the command to its end."""
    parent, patience_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    keeper = os.getpid()
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    die_with_parent(parent, signal.SIGTERM)
    child = os.fork()
    if child == 0:
        _become(command, keeper)

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        _end(child, patience_s if os.getppid() == parent else 0.0)

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while True:
        ended, status = os.wait()  # what it adopted may end before
        if ended == child:
            break
    _kill_all(child)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _become(command: list[str], keeper: int) -> NoReturn:
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if sys.platform == "linux":  # elsewhere a thread would watch, which no other program has
            die_with_parent(keeper)
        os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(NOT_RUN)


def _end(child: int, patience_s: float) -> NoReturn:
    deadline = time.monotonic() + patience_s
    code = 0
    if patience_s:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGTERM)
    while time.monotonic() < deadline:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            break
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(_POLL_S)
    _kill_all(child)
    os._exit(code if code >= 0 else 128 - code)


def _kill_all(child: int) -> None:
    """Kills the command's session and, on Linux, whatever has left it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    end_children()


if __name__ == "__main__":
    main()
