"""How a call of the command line ends: one message on standard error, and an exit code."""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import sys
import tempfile
import threading
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from qbench.core.errors import QbenchError
from qbench.core.untrusted import as_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer import Typer

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""
UNREAD = 141
"""Exit code when no one reads standard output any more: 128 and the number of SIGPIPE."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What writing to a stream, which has no name, fails with."""


class UnreadError(Exception):
    """Work was stopped because no one reads any more what it says."""


class StoppedRunError(Exception):
    """Ctrl-C, while records were taken: those on disk are where the next call begins."""


@contextmanager
def records_taken() -> Iterator[None]:
    """Ends the block by `StoppedRunError` at Ctrl-C, and by `UnreadError` where no one reads on.

    Without this a run that is piped into `head` would measure on, for hours, until it has something
    to say.
    """
    ended = threading.Event()
    if _is_pipe():
        threading.Thread(target=_end_when_unread, args=(ended,), daemon=True).start()
    try:
        yield
    except (BrokenPipeError, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) or (_is_pipe() and _is_unread(0)):
            raise UnreadError from error
        raise StoppedRunError from error
    finally:
        ended.set()


def _end_when_unread(ended: threading.Event) -> None:
    if _is_unread(None) and not ended.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # closed, or no file at all
        return False


def _is_unread(wait_ms: int | None) -> bool:
    """Whether the pipe's reader is gone; waits for it without an end where `wait_ms` is None."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)  # an error is told whatever is asked for
    return bool(waiting.poll(wait_ms))


def run_app(app: Typer) -> int:
    """Calls the command line; the exit code that its end means."""
    # Being told to end is being interrupted: the worker is ended and the user told how to continue.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _prepare_output()
    code = _call(app)
    refused = _refused_output()
    if refused is not None:
        code = _complain_of_output(refused)
    return code or 0


def _call(app: Typer) -> int | None:
    """Calls the command line; the exit code that its end means, told on standard error."""
    from typer import Abort

    try:
        code: int | None = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer itself may have turned Ctrl-C into this code
            _complain("interrupted")
    except QbenchError as error:
        _complain(str(error))
        code = 2
    except (KeyboardInterrupt, Abort):
        _complain("interrupted")
        code = INTERRUPTED
    except StoppedRunError:
        _complain("interrupted; the same command continues from the records on disk")
        code = INTERRUPTED
    except UnreadError:
        _leave_output_alone()
        _complain(
            "stopped, as no one reads standard output any more; the same command continues from the"
            " records on disk"
        )
        code = UNREAD
    except BrokenPipeError:
        _leave_output_alone()
        code = UNREAD
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, told without a traceback
        code = _handle_other(error)
    return code


def _prepare_output() -> None:
    """Lets output show what its encoding has no signs for as escapes, where it would fail."""
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started this
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _refused_output() -> str | None:
    """Why standard output takes no more, which is then left alone; None where it does."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _leave_output_alone()
        return None if isinstance(error, BrokenPipeError) else error.strerror or str(error)
    return None


def _leave_output_alone() -> None:
    """What is still held back would fail once more when the process ends, and change its code."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain_of_output(reason: str) -> int:
    _complain(
        f"standard output cannot be written ({reason}); free space there, or write it elsewhere;"
        " records on disk are safe"
    )
    return 2


def _handle_other(error: Exception) -> int:
    """Wrong usage, and what the system refuses: 2. The rest is a bug, its traceback in a file."""
    show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if callable(show) and isinstance(exit_code, int):  # typer's own, whichever click it carries
        with suppress(OSError):
            show()
        return exit_code
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
        _leave_output_alone()
        return _complain_of_output(os.strerror(error.errno))
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        _complain(f"{error.filename}: {error.strerror}; check the path, its permissions, its disk")
        return 2
    if isinstance(error, ModuleNotFoundError):
        from qbench.core.packages import remedy_of_import

        remedy = remedy_of_import(error)
        if remedy is not None:
            _complain(remedy)
            return 2
    _complain(
        f"a bug in qbench ({type(error).__name__}: {error}); records on disk are safe."
        f" Please report it with {_write_traceback(error)}"
    )
    return 3


def _write_traceback(error: Exception) -> str:
    """The file that tells of a bug, or why there is none."""
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="qbench-bug-",
            suffix=".log",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n\n")
            traceback.print_exception(error, file=file)
    except OSError as refused:
        return f"its traceback (no file could be written for it: {refused.strerror})"
    return file.name


def _complain(message: str) -> None:
    from rich.text import Text

    from qbench.report.console import make_console

    lines = "\n".join(map(as_message, message.split("\n")))
    made = Text.assemble(("qbench: ", "bold red"), lines)
    with suppress(OSError):  # the exit code tells as much
        make_console(stderr=True).print(made, soft_wrap=True)
