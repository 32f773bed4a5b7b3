"""What of the processors a server takes while it is loaded, and who disturbs it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Self

import psutil

from qbench.core.cpu import compute_threads, usable_cpus
from qbench.measures.other_programs import SLICE_S, Look, OthersWatch, look_now

if TYPE_CHECKING:
    from types import TracebackType

    from qbench.measures.other_programs import OtherPrograms


class LoadWatch:
    """Looks from entering until leaving, in a thread of its own.

    Of a server that is not started here nothing is known: it may run on this machine, and what it
    takes could not be told from what others take.
    """

    def __init__(self, pid: int | None, *, on_gpu: bool) -> None:
        """`pid` of the process that the server's are below; None of one that was not started."""
        self._pid = pid
        threads = 1 if on_gpu else compute_threads()
        self._others = None if pid is None else OthersWatch(threads, usable_cpus(), look_with_own)
        self._server_cpu: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    @property
    def server_cpu_s(self) -> float | None:
        """Processor time of the server's processes; None of one that was not started here."""
        taken = self._server_cpu
        return taken[-1] - taken[0] if taken else None

    @property
    def others(self) -> OtherPrograms | None:
        """What other programs took; None of a server that was not started here."""
        return None if self._others is None else self._others.found()

    def _watch(self) -> None:
        while not self._over.wait(SLICE_S):
            self._look()

    def _look(self) -> None:
        if self._pid is None or self._others is None:
            return
        self._server_cpu.append(cpu_s(self._pid))
        self._others.look()


def look_with_own(cpus: frozenset[int]) -> Look:
    """As `look_now`; one's own time is this process's and that of all that it started."""
    return look_now(cpus)._replace(own=cpu_s(os.getpid()))


def cpu_s(pid: int) -> float:
    """Processor time of a process and all below it, with what of those has ended."""
    try:
        first = psutil.Process(pid)
        return sum(map(_cpu_s, (first, *first.children(recursive=True))))
    except psutil.Error:
        return 0.0


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended)
