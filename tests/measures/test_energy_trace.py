"""Energy of a stretch of time that is known only afterwards."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.roofline.energy import EnergyMeter
from qbench.measures.roofline.energy_trace import EnergyTrace, joules_between, open_energy_trace
from qbench.measures.serving.energy import load_energy
from tests.powercap import RANGE_UJ, Drawing, Powercap, set_counter

if TYPE_CHECKING:
    from pathlib import Path

LOOKS = [(0.0, 0.0), (1.0, 100.0), (2.0, 150.0), (4.0, 350.0)]
"""100 W, then 50, then 100."""


def naive(begun: float, ended: float, steps: int = 40_000) -> float:
    """The power summed up over slices, each at its middle."""
    slice_s = (ended - begun) / steps
    total = 0.0
    for step in range(steps):
        middle = begun + (step + 0.5) * slice_s
        for (before, low), (after, high) in itertools.pairwise(LOOKS):
            if before <= middle < after:
                total += slice_s * (high - low) / (after - before)
    return total


@pytest.mark.parametrize(("begun", "ended"), [(0.0, 4.0), (0.25, 0.75), (0.5, 3.0), (1.0, 2.0)])
def test_between_two_moments_is_the_integral_of_the_power(begun: float, ended: float) -> None:
    assert joules_between(LOOKS, begun, ended) == pytest.approx(naive(begun, ended), rel=1e-3)


@pytest.mark.parametrize(("begun", "ended"), [(-0.1, 1.0), (3.0, 4.1), (5.0, 6.0)])
def test_what_lies_beyond_the_looks_is_not_known(begun: float, ended: float) -> None:
    assert joules_between(LOOKS, begun, ended) is None
    assert joules_between([], begun, ended) is None


def test_a_load_draws_what_was_counted_in_its_time_and_nothing_before(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path / "powercap")
    counter = powercap.add("intel-rapl:0", "package-0")
    with open_energy_trace(["cpu"], powercap=powercap.folder) as trace:
        set_counter(counter, 5_000_000)  # before the load
        trace.look()
        begun = time.time()
        trace.look()
        with Drawing(counter, 5_000_000, RANGE_UJ, step_uj=20_000) as drawing:
            time.sleep(0.3)
        trace.look()
        ended = time.time()
        trace.look()
        set_counter(counter, 900_000_000)  # after it
        trace.look()
    assert trace.method == "RAPL's counters of package-0"
    value, reason = trace.per(begun, ended, 10.0)
    assert reason is None
    assert value == pytest.approx(drawing.drawn_uj / 1e7)
    value, reason = trace.per(begun - 60, ended, 10.0)
    assert (value, reason) == (None, "the energy was not told over the whole of that time")


def test_a_token_under_load_draws_the_mean_power_over_the_throughput() -> None:
    """By hand: from 0.5 s to 3.0 are 200 J, at 4 tokens a second 10 tokens."""
    trace = EnergyTrace(EnergyMeter(Steady()))
    trace.looks.extend(LOOKS)
    rate = SimpleNamespace(successful=SimpleNamespace(mean=4.0))
    metrics = SimpleNamespace(output_tokens_per_second=rate)
    load: Any = SimpleNamespace(metrics=metrics, start_time=0.5, end_time=3.0)
    assert load_energy(trace, load, None).value == pytest.approx(20.0)
    load.end_time = 5.0
    assert "over the whole" in (load_energy(trace, load, None).reason or "")
    assert load_energy(trace, load, "another machine").reason == "another machine"


class Steady:
    """A source whose looks a test gives."""

    method = "a counter"
    shortest_s = 0.1
    tells_steps = True
    lost: str | None = None

    def look(self) -> None:
        """Nothing."""

    def read_j(self) -> float | None:
        return 0.0


def test_without_a_counter_there_is_the_reason(tmp_path: Path) -> None:
    with open_energy_trace(["cpu"], powercap=tmp_path / "none") as trace:
        trace.look()
    value, reason = trace.per(0.0, 1.0, 5.0)
    assert value is None
    assert "none" in (reason or "")
