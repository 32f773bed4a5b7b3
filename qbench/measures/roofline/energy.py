"""Energy that GPUs draw between two moments: by their counters, else from samples of their power.

Both are of the whole GPU, or of all that a model lies on, memory and idle draw included, and of
whatever else runs there. The counter moves every 20 to 100 ms, so that short times are not told
apart.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from qbench.core.gpu import GpuProbe

SHORTEST_S = 0.5
"""Energy of less time than this is not told: the counter would be wrong by more than a fifth."""
SAMPLE_INTERVAL_S = 0.05


class EnergyMeter:
    """Joules since it was opened; see `open_energy_meter`."""

    def __init__(self, joules: Callable[[], float | None], method: str, reason: str) -> None:
        self._joules = joules
        self.method = method or None
        """How energy is obtained here, for the record; None where it is not."""
        self._reason = reason

    def read_j(self) -> float | None:
        """Joules drawn so far; None where the GPU does not tell, or no longer."""
        return self._joules()

    def per(
        self, joules: float | None, count: int, spent_s: float
    ) -> tuple[float | None, str | None]:
        """Joules for each of `count` things done in `spent_s`; None and the reason if unknown."""
        if joules is None:
            return None, self._reason or "the GPU stopped to tell its energy"
        if spent_s < SHORTEST_S or joules <= 0 or not count:
            return None, (
                f"{spent_s:.2g} s are too short to tell their energy; measure for {SHORTEST_S:g} s"
                " and more"
            )
        return joules / count, None


@contextmanager
def open_energy_meter(
    probes: Collection[GpuProbe], *, interval_s: float = SAMPLE_INTERVAL_S
) -> Iterator[EnergyMeter]:
    """Begins to measure GPUs together; none: nothing is known.

    Where there is only the power, a thread asks for it every `interval_s`.
    """
    if not probes:
        yield EnergyMeter(lambda: None, "", "NVML tells the energy of NVIDIA GPUs only")
        return
    begun_j = _energy_j(probes)
    if begun_j is not None:
        start_j: float = begun_j
        yield EnergyMeter(lambda: _since(start_j, _energy_j(probes)), "NVML's energy counter", "")
        return
    if _power_w(probes) is None:
        yield EnergyMeter(lambda: None, "", "this GPU tells neither its energy nor its power")
        return
    sampler = _PowerSampler(probes, interval_s)
    sampler.start()
    try:
        yield EnergyMeter(sampler.read_j, f"NVML's power, every {1000 * interval_s:g} ms", "")
    finally:
        sampler.stop()


def _energy_j(probes: Collection[GpuProbe]) -> float | None:
    return _sum(probe.energy_j() for probe in probes)


def _power_w(probes: Collection[GpuProbe]) -> float | None:
    return _sum(probe.power_w() for probe in probes)


def _sum(values: Iterable[float | None]) -> float | None:
    """None where one is not known."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _since(start_j: float, now_j: float | None) -> float | None:
    return None if now_j is None else now_j - start_j


class _PowerSampler(threading.Thread):
    """Adds up power over time, each stretch at the mean of the powers at its ends."""

    def __init__(self, probes: Collection[GpuProbe], interval_s: float) -> None:
        super().__init__(daemon=True)
        self._probes = probes
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[float, float] | None = None

    def run(self) -> None:
        """Samples until it is stopped."""
        self._sample()
        while not self._ended.wait(self._interval_s):
            self._sample()

    def read_j(self) -> float | None:
        """Joules up to now."""
        self._sample()
        with self._lock:
            return self._joules

    def stop(self) -> None:
        """Ends the sampling."""
        self._ended.set()
        self.join()

    def _sample(self) -> None:
        with self._lock:
            watts, at = _power_w(self._probes), time.perf_counter()
            if watts is None:
                return  # a gap: the next sample spans it
            if self._last is not None:
                last_watts, last_at = self._last
                self._joules += (at - last_at) * (watts + last_watts) / 2
            self._last = watts, at
