"""Energy of a new token: over whole iterations, and of prefill and decode each by itself.

The two alternate. They are told apart where each lasts long enough for the counter; else only what
both draw together is known.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.record import MetricDefinition
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.roofline.energy import ENERGY_OF, open_energy_meter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from qbench.core.gpu import GpuProbe
    from qbench.measures.roofline.energy import EnergyMeter
    from qbench.predict.work import GridPoint

METRICS = (
    MetricDefinition(
        name="latency.energy",
        unit="J",
        better="lower",
        title="energy a new token",
        formula=f"{ENERGY_OF} over the timed iterations, prefill and decode, / new tokens of all"
        " sequences made in them",
    ),
    MetricDefinition(
        name="latency.energy.prefill",
        unit="J",
        better="lower",
        title="energy a prompt token",
        formula="the same energy over the prefills alone / prompt tokens of all sequences",
    ),
    MetricDefinition(
        name="latency.energy.decode",
        unit="J",
        better="lower",
        title="energy a new token, decode alone",
        formula="the same energy over the decodes alone / new tokens of all sequences",
    ),
)
_LONGER = {"prefill": "raise batch or prompt_tokens", "decode": "raise batch or new_tokens"}


class LatencyEnergy:
    """Reads the device's energy, and that of the processors beside a GPU; see `METRICS`."""

    def __init__(self, meter: EnergyMeter, host: EnergyMeter | None) -> None:
        """`host`: of the machine of a GPU."""
        self._meter = meter
        self._host = host
        self._begun: tuple[float | None, float | None, float] = None, None, 0.0
        self._asks = True
        self._at: tuple[float, float] | None = None
        self._spent: dict[str, list[tuple[float, float]]] = {"prefill": [], "decode": []}
        """Joules and seconds of each."""

    def start(self) -> None:
        """The timed iterations begin."""
        self._begun = self._meter.read_j(), self._read_host(), time.perf_counter()

    def begin(self) -> None:
        """A prefill begins."""
        joules = self._meter.read_j() if self._asks else None
        self._at = None if joules is None else (joules, time.perf_counter())

    def end(self, step: str) -> None:
        """`prefill` has ended and decode begins, or `decode` has ended."""
        before = self._at
        self.begin()
        if before is None or self._at is None:
            return
        self._spent[step].append((self._at[0] - before[0], self._at[1] - before[1]))
        if step == "decode":  # the reading itself takes time: no more of it where it is of no use
            self._asks = any(self._too_short(one) is None for one in self._spent)

    def found(self, point: GridPoint, *, iterations: int) -> Outcome:
        """What was drawn since the start, by the tokens of so many iterations."""
        begun_j, begun_host_j, begun = self._begun
        joules = _less(self._meter.read_j(), begun_j)
        host_joules = _less(self._read_host(), begun_host_j)
        spent_s = time.perf_counter() - begun
        made = point.batch * point.new_tokens
        values = {
            "latency.energy": self._meter.per(joules, made * iterations, spent_s),
            "latency.energy.prefill": self._per("prefill", point.batch * point.prompt_tokens),
            "latency.energy.decode": self._per("decode", made),
        }
        details: dict[str, Any] = {"energy_method": self._meter.method}
        if self._host is not None:
            value, reason = self._host.per(host_joules, made * iterations, spent_s)
            details["host_energy"] = {
                "method": self._host.method,
                "j_a_new_token": value,
                "reason": reason,
            }
        return Outcome(
            metrics=tuple(
                make_metric(METRICS, name, value, reason=reason)
                for name, (value, reason) in values.items()
            ),
            details=details,
        )

    def _per(self, step: str, tokens: int) -> tuple[float | None, str | None]:
        """Joules for each of the tokens of one such step; None and the reason if unknown."""
        spent = self._spent[step]
        too_short = self._too_short(step)
        if too_short is not None:
            return None, too_short
        joules = sum(joules for joules, _ in spent) if spent else None
        return self._meter.per(joules, tokens * len(spent), self._mean_s(step))

    def _too_short(self, step: str) -> str | None:
        if not self._spent[step]:
            return None
        return self._meter.why_not_apart(step, self._mean_s(step), _LONGER[step])

    def _mean_s(self, step: str) -> float:
        spent = self._spent[step]
        return sum(seconds for _, seconds in spent) / len(spent) if spent else 0.0

    def _read_host(self) -> float | None:
        return None if self._host is None else self._host.read_j()


@contextmanager
def open_latency_energy(device: str, probes: Collection[GpuProbe]) -> Iterator[LatencyEnergy]:
    """Begins to measure what `device` draws, and beside a GPU the processors of its machine."""
    with open_energy_meter(device, probes) as meter:
        if not device.startswith("cuda"):
            yield LatencyEnergy(meter, None)
            return
        with open_energy_meter("cpu") as host:
            yield LatencyEnergy(meter, host)


def _less(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before
