"""Energy of a stretch of time that is known only afterwards: a load that another program ran.

The meter is read again and again; what was drawn between two moments follows from its neighbours.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qbench.core.gpu import gpu_probes
from qbench.measures.roofline.energy import open_energy_meter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qbench.measures.roofline.energy import EnergyMeter

LOOK_S = 0.1
Look = tuple[float, float]
"""A moment, in seconds of the clock (`time.time`), and the joules up to then."""


class EnergyTrace:
    """What a device draws, by moments; see `open_energy_trace`."""

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self.looks: list[Look] = []
        """In the order of time."""
        self._lock = threading.Lock()
        self.method = meter.method
        """How energy is obtained, for the record; None where it is not."""

    def look(self) -> None:
        """Reads the meter now."""
        with self._lock:
            joules, at = self._meter.read_j(), time.time()
            if joules is not None:
                self.looks.append((at, joules))

    def per(self, begun: float, ended: float, count: float) -> tuple[float | None, str | None]:
        """Joules for each of `count` things that were done between two moments of the clock.

        None and the reason where that is not known.
        """
        joules = joules_between(self.looks, begun, ended)
        if joules is None and self.looks:
            return None, "the energy was not told over the whole of that time"
        return self._meter.per(joules, count, ended - begun)


def joules_between(looks: Sequence[Look], begun: float, ended: float) -> float | None:
    """What was drawn between two moments, evenly between two looks; None beyond the looks."""
    ends = [_at(looks, moment) for moment in (begun, ended)]
    first, last = ends
    return None if first is None or last is None else last - first


def _at(looks: Sequence[Look], moment: float) -> float | None:
    for (before, low), (after, high) in itertools.pairwise(looks):
        if before <= moment <= after:
            return low + (high - low) * (moment - before) / (after - before or 1.0)
    return None


@contextmanager
def open_energy_trace(
    devices: Sequence[str], *, powercap: Path | None = None
) -> Iterator[EnergyTrace]:
    """Looks at what devices, as torch names them, draw together, until it is left."""
    with (
        gpu_probes(devices) as probes,
        open_energy_meter(devices[0], probes.values(), powercap=powercap) as meter,
    ):
        trace = EnergyTrace(meter)
        if meter.method is None:
            yield trace
            return
        ended = threading.Event()
        looker = threading.Thread(target=_look, args=(trace, ended), daemon=True)
        looker.start()
        try:
            yield trace
        finally:
            ended.set()
            looker.join()
            trace.look()


def _look(trace: EnergyTrace, ended: threading.Event) -> None:
    trace.look()
    while not ended.wait(LOOK_S):
        trace.look()
