"""The memory of a server, from outside: of its processes, and of the GPU that it is on."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

from qbench.core.gpu import device_used_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S = 0.1


@dataclass(frozen=True)
class ServerMemory:
    """The highest of what was seen in a look every `INTERVAL_S`."""

    start_bytes: int | None
    """Resident size of its processes together, while it started; None where no look was taken."""
    serve_bytes: int | None
    """The same, since it was healthy."""
    device_bytes: int | None
    """Memory of the GPU since it was healthy, whoever holds it, less its level before the start;
    None on a CPU and where NVML does not tell."""


class MemoryWatch:
    """Looks at the descendants of the process that keeps a server, in a thread of its own."""

    def __init__(self, keeper: int, device: str, level_bytes: int | None) -> None:
        """`level_bytes` is the GPU's use before the server was started."""
        self._keeper = keeper
        self._device = device
        self._level_bytes = level_bytes
        self._start: int | None = None
        self._serve: int | None = None
        self._used: int | None = None
        self._healthy = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def healthy(self) -> None:
        """From now on it serves."""
        self._healthy = True

    def read(self) -> ServerMemory:
        """The highest so far."""
        self._look()
        device = None
        if self._used is not None and self._level_bytes is not None:
            device = max(0, self._used - self._level_bytes)
        return ServerMemory(self._start, self._serve, device)

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        healthy, resident = self._healthy, resident_bytes(self._keeper)
        if resident is not None and healthy:
            self._serve = max(self._serve or 0, resident)
        elif resident is not None:
            self._start = max(self._start or 0, resident)
        if healthy and self._level_bytes is not None:
            self._used = _higher(self._used, lambda: device_used_bytes(self._device))


def resident_bytes(keeper: int) -> int | None:
    """Resident size of all that a keeper keeps, pages that they share counted in each."""
    total = 0
    try:
        processes = psutil.Process(keeper).children(recursive=True)
    except psutil.Error:
        return None
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total or None


def _higher(before: int | None, look: Callable[[], int | None]) -> int | None:
    now = look()
    return before if now is None else max(before or 0, now)
