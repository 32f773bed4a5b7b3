"""Limits of time, memory and output for templates, which anyone may have written.

Jinja's sandbox keeps a template from the machine, not from loops without end, strings that fill the
memory, or calls of itself.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Made = TypeVar("Made")

LONGEST_S = 3.0
"""Time of a processor for one text; an ordinary template takes a thousandth of a second."""
LARGEST_BYTES = 2**30
"""What a template may take of memory beside what is there."""
MOST_CHARACTERS = 10_000_000
"""Of one text; the longest context of a model holds fewer."""

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a template's own arithmetic, tests and filters raise: what Python raises."""
_LOOK_EVERY_S = 0.5


class TemplateLimitError(Exception):
    """A template that goes beyond a limit; the message says which."""


def within_limits(make: Callable[[], Made]) -> Made:
    """What a template makes; raises `TemplateLimitError` where it goes beyond a limit.

    Outside the main thread, and where the system has no such limits, time and memory are not
    limited.
    """
    try:
        with _time_limit(), _memory_limit():
            made = make()
    except MemoryError as error:
        raise TemplateLimitError(
            f"it takes more than {LARGEST_BYTES / 2**30:g} GiB of memory"
        ) from error
    except RecursionError as error:
        raise TemplateLimitError("it is nested too deep, or calls itself without end") from error
    if isinstance(made, str) and len(made) > MOST_CHARACTERS:
        raise TemplateLimitError(f"it writes more than {MOST_CHARACTERS:,} characters")
    return made


@contextmanager
def _time_limit() -> Iterator[None]:
    import signal

    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "SIGVTALRM"
    ):
        yield
        return
    started_s = time.thread_time()

    def look(*_: Any) -> None:
        # By the processor's time: a machine that is busy with other things is no reason.
        if time.thread_time() - started_s > LONGEST_S:
            raise TemplateLimitError(f"it takes longer than {LONGEST_S:g} s")

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, _LOOK_EVERY_S, _LOOK_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _memory_limit() -> Iterator[None]:
    held_bytes = _held_bytes()
    if held_bytes is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held_bytes + LARGEST_BYTES
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _held_bytes() -> int | None:
    """Writable memory of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[5])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
