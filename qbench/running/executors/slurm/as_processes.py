"""Jobs as processes of this machine, which submitit starts where there is no Slurm.

They are found by their process's id and the time when it was started, also by another run. Such a
process watches over the one that does the work.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.running.executors.slurm.folder import Submitted

_ENDS_WITHIN_S = 10.0
"""In which a process ends that is told to."""
_CLOCK_S = 2.0
UNHEARD = "trap '' INT"
"""A line of shell after which it and what it starts hear no Ctrl-C; some shells unblock signals."""
_WORKS = "submitit.core._submit"
"""In the command line of a process that does a job's work."""


@contextmanager
def unheard_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile hear no Ctrl-C, which a terminal sends to all.

    One that watches would end with a traceback on the terminal, before what it watches has ended.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_interrupts() -> None:
    """This process, which does a job's work, ends on Ctrl-C and `interrupt` from here on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def started(job_id: str) -> float:
    """When a process was started, in seconds since 1970; 0 where it has ended."""
    with suppress(psutil.Error):
        return psutil.Process(int(job_id)).create_time()
    return 0.0


def _process(one: Submitted) -> psutil.Process | None:
    """The process of a job of this machine; None once it has ended, also if another has its id."""
    with suppress(psutil.Error):
        process = psutil.Process(int(one.id))
        # The time is worked out from the machine's clock, which may have been set since.
        same = abs(process.create_time() - (one.started or 0.0)) < _CLOCK_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    return None


def lives(one: Submitted) -> bool:
    """Whether a job waits or runs."""
    return _process(one) is not None


def interrupt(several: list[Submitted]) -> None:
    """Ends the work of processes, as Ctrl-C would, with all that it started; they end then."""
    ending = [process for one in several if (process := _process(one)) is not None]
    told: set[psutil.Process] = set()
    until = time.monotonic() + _ENDS_WITHIN_S
    while time.monotonic() < until:
        _, ending = psutil.wait_procs(ending, timeout=0.1)
        with suppress(psutil.Error):
            children = {one for process in ending for one in process.children(recursive=True)}
            for child in children - told:
                if _WORKS in child.cmdline():
                    told.add(child)
                    child.send_signal(signal.SIGINT)
        if not ending:
            return
    for process in ending:
        with suppress(psutil.Error):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
