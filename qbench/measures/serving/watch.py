"""What a server takes while it is loaded: resident memory, a GPU's memory, and who disturbs it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import psutil

from qbench.core.cpu import compute_threads, usable_cpus
from qbench.measures.other_programs import Look, OthersWatch, look_now

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from qbench.core.gpu import GpuProbe
    from qbench.measures.other_programs import OtherPrograms

INTERVAL_S = 0.05


@dataclass(frozen=True)
class Taken:
    """What a server took under a load."""

    resident_bytes: int | None
    """The highest resident size of its processes together; None where none of them was seen."""
    device_bytes: int | None
    """The highest memory in use of the GPUs together; None without a GPU that NVML tells of."""
    cpu_s: float | None
    """Processor time of its processes."""


class ServerWatch:
    """Looks at a server's processes from entering until leaving, in a thread of its own."""

    def __init__(self, pid: int | None, probes: Collection[GpuProbe], *, on_gpu: bool) -> None:
        """`pid` of the server's first process; None of one that runs elsewhere."""
        self._pid = pid
        self._probes = probes
        threads = 1 if on_gpu else compute_threads()
        # What runs elsewhere may run on this machine: its time could not be told from others'.
        self._others = None if pid is None else OthersWatch(threads, usable_cpus(), _look)
        self._resident: list[int] = []
        self._device: list[int] = []
        self._cpu: list[float] = []
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

    @property
    def taken(self) -> Taken:
        """What was seen."""
        return Taken(
            max(self._resident, default=None),
            max(self._device, default=None),
            self._cpu[-1] - self._cpu[0] if self._cpu else None,
        )

    @property
    def others(self) -> OtherPrograms | None:
        """What other programs took; None of a server that runs elsewhere."""
        return None if self._others is None else self._others.found()

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        if self._pid is not None:
            found = [_memory_and_cpu(process) for process in _tree(self._pid)]
            resident = sum(memory for memory, _ in found)
            if resident:
                self._resident.append(resident)
                self._cpu.append(sum(cpu for _, cpu in found))
        used = [probe.used_bytes() for probe in self._probes]
        if used and None not in used:
            self._device.append(sum(filter(None, used)))
        if self._others is not None:
            self._others.look()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _memory_and_cpu(process: psutil.Process) -> tuple[int, float]:
    try:
        with process.oneshot():
            times = process.cpu_times()
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            return process.memory_info().rss, times.user + times.system + ended
    except psutil.Error:
        return 0, 0.0


def _look(cpus: frozenset[int]) -> Look:
    """As `look_now`; one's own time is this process's and that of all that it started."""
    now = look_now(cpus)
    own = sum(_memory_and_cpu(process)[1] for process in _tree(psutil.Process().pid))
    return Look(time.perf_counter(), now.busy, own)


def server_details(taken: Taken, guidellm_cpu_s: float) -> dict[str, Any]:
    """For the record: who took how much of the processors."""
    return {"server_cpu_s": taken.cpu_s, "guidellm_cpu_s": guidellm_cpu_s}
