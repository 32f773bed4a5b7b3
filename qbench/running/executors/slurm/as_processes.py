"""Jobs as processes of this machine, which submitit starts where there is no Slurm.

They are found by their process's id and the time when it was started, also by another run.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from qbench.running.executors.slurm.folder import Submitted

_ENDS_WITHIN_S = 10.0
"""In which a process ends that is told to."""
_CLOCK_S = 2.0


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
    """Ends the work of processes, as a person would, with all that it started; they end then."""
    ending = [process for one in several if (process := _process(one)) is not None]
    told: set[psutil.Process] = set()
    until = time.monotonic() + _ENDS_WITHIN_S
    while time.monotonic() < until:
        _, ending = psutil.wait_procs(ending, timeout=0.1)
        with suppress(psutil.Error):
            for child in {one for process in ending for one in process.children()} - told:
                told.add(child)
                child.send_signal(signal.SIGINT)
        if not ending:
            return
    for process in ending:
        with suppress(psutil.Error):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
