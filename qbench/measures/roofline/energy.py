"""Energy that a device draws between two moments.

Of GPUs by NVML's counters, else from samples of their power: that of the whole GPU, or of all that
a model lies on, memory and idle draw included. Of a CPU by RAPL: that of all the machine's
processors, and of its memory where that has a counter. Both are of whatever else runs there, too.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from qbench.core.rapl import POWERCAP, RaplCounter, RaplError, rapl_zones

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from qbench.core.gpu import GpuProbe

ENERGY_OF = (
    "energy by NVML of the whole GPU, or by RAPL of all processors of the machine and their memory"
    " where it has a counter, with all else that ran there and idle draw,"
)
"""How a formula begins."""
SHORTEST_S = 0.5
"""Energy of less time on a GPU is not told: its counter moves every 20 to 100 ms, and would be
wrong by more than a fifth."""
SHORTEST_RAPL_S = 0.02
"""The same of RAPL's counters, which move every millisecond: wrong by a twentieth."""
SAMPLE_INTERVAL_S = 0.05
RAPL_INTERVAL_S = 5.0
"""RAPL's counters begin again at 0 after minutes: they are looked at so often in between."""


class _Source(Protocol):
    """What tells energy."""

    method: str
    """In a few words."""
    shortest_s: float
    """Energy of less time is not told."""
    tells_steps: bool
    """Whether prefill and decode, one after the other, can be told apart."""
    lost: str | None
    """Why `read_j` is None."""

    def look(self) -> None:
        """To be called now and then, where there is an interval."""

    def read_j(self) -> float | None:
        """Joules up to now."""


class EnergyMeter:
    """Joules since it was opened; see `open_energy_meter`."""

    def __init__(self, source: _Source | None, reason: str | None = None) -> None:
        """`reason`: why there is no source."""
        self._source = source
        self.method = source.method if source else None
        """How energy is obtained here, for the record; None where it is not."""
        self.reason = reason
        """Why it is not."""

    def read_j(self) -> float | None:
        """Joules drawn so far; None where the device does not tell, or no longer."""
        return self._source.read_j() if self._source else None

    def per(
        self, joules: float | None, count: float, spent_s: float
    ) -> tuple[float | None, str | None]:
        """Joules for each of `count` things done in `spent_s`; None and the reason if unknown."""
        source = self._source
        if source is None or joules is None:
            lost = source.lost if source else self.reason
            return None, lost or "the device stopped to tell its energy"
        if spent_s < source.shortest_s or joules <= 0 or not count:
            return None, (
                f"{spent_s:.2g} s are too short to tell their energy; measure for"
                f" {source.shortest_s:g} s and more"
            )
        return joules / count, None

    def why_not_apart(self, step: str, seconds: float, remedy: str) -> str | None:
        """Why the energy of a step which lasts so long, between others, is not told by itself.

        None where it is.
        """
        source = self._source
        if source is None or (source.tells_steps and seconds >= source.shortest_s):
            return None
        if not source.tells_steps:
            return f"{source.method}, does not tell one step from the next"
        return (
            f"a {step} is too short for {source.method}, by which {source.shortest_s:g} s and more"
            f" can be told apart; {remedy}"
        )


@contextmanager
def open_energy_meter(
    device: str,
    probes: Collection[GpuProbe] = (),
    *,
    interval_s: float | None = None,
    powercap: Path | None = None,
) -> Iterator[EnergyMeter]:
    """Begins to measure what a device draws: `device` is torch's name, a GPU's are `probes`.

    A thread looks every `interval_s` where there is only the power, and at RAPL's counters.
    `powercap` is where Linux shows these.
    """
    if not device.startswith("cuda"):
        try:
            source: _Source = _Processors(POWERCAP if powercap is None else powercap)
        except RaplError as error:
            yield EnergyMeter(None, str(error))
            return
        interval_s = interval_s or RAPL_INTERVAL_S
    elif not probes:
        yield EnergyMeter(None, "NVML does not tell of the GPU")
        return
    elif (begun_j := _energy_j(probes)) is not None:
        yield EnergyMeter(_GpuCounters(probes, begun_j))
        return
    elif _power_w(probes) is None:
        yield EnergyMeter(None, "this GPU tells neither its energy nor its power")
        return
    else:
        interval_s = interval_s or SAMPLE_INTERVAL_S
        source = _GpuPower(probes, interval_s)
    ended = threading.Event()
    looker = threading.Thread(target=_look, args=(source, interval_s, ended), daemon=True)
    looker.start()
    try:
        yield EnergyMeter(source)
    finally:
        ended.set()
        looker.join()


def _look(source: _Source, interval_s: float, ended: threading.Event) -> None:
    while not ended.wait(interval_s):
        source.look()


class _Processors(RaplCounter):
    """RAPL's counters."""

    shortest_s = SHORTEST_RAPL_S
    tells_steps = True

    def __init__(self, powercap: Path) -> None:
        zones = rapl_zones(powercap)
        super().__init__(zones)
        self.method = f"RAPL's counters of {', '.join(zone.name for zone in zones)}"


class _GpuCounters:
    """NVML's counters of GPUs, from where they stood."""

    method = "NVML's energy counter"
    shortest_s = SHORTEST_S
    tells_steps = True
    lost: str | None = "the GPU stopped to tell its energy"

    def __init__(self, probes: Collection[GpuProbe], begun_j: float) -> None:
        self._probes = probes
        self._begun_j = begun_j

    def look(self) -> None:
        """Nothing: it counts by itself."""

    def read_j(self) -> float | None:
        """Joules up to now."""
        now_j = _energy_j(self._probes)
        return None if now_j is None else now_j - self._begun_j


class _GpuPower:
    """Adds up the power of GPUs over time, each stretch at the mean of the powers at its ends."""

    shortest_s = SHORTEST_S
    tells_steps = False
    lost: str | None = None

    def __init__(self, probes: Collection[GpuProbe], interval_s: float) -> None:
        self.method = f"NVML's power, every {1000 * interval_s:g} ms"
        self._probes = probes
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self.look()

    def look(self) -> None:
        """Takes a sample; where there is a gap the next one spans it."""
        with self._lock:
            watts, at = _power_w(self._probes), time.perf_counter()
            if watts is None:
                return
            if self._last is not None:
                last_watts, last_at = self._last
                self._joules += (at - last_at) * (watts + last_watts) / 2
            self._last = watts, at

    def read_j(self) -> float | None:
        """Joules up to now."""
        self.look()
        with self._lock:
            return self._joules


def _energy_j(probes: Collection[GpuProbe]) -> float | None:
    return _sum(probe.energy_j() for probe in probes)


def _power_w(probes: Collection[GpuProbe]) -> float | None:
    return _sum(probe.power_w() for probe in probes)


def _sum(values: Iterable[float | None]) -> float | None:
    """None where one is not known."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
