"""Energy, clocks and throttling, on a GPU that a test plays."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.gpu import (
    GpuProbe,
    GpuState,
    device_used_bytes,
    gpu_probe,
    gpu_probes,
    used_bytes_by_device,
)
from qbench.measures.roofline.clocks import clock_details, clock_warnings, gpu_states
from qbench.measures.roofline.energy import SHORTEST_S, open_energy_meter
from qbench.measures.roofline.latency_energy import LatencyEnergy, open_latency_energy
from qbench.measures.roofline.training import StepWatch
from qbench.predict.work import GridPoint
from tests.measures.fake_nvml import FakeNvml
from tests.powercap import Drawing, Powercap, set_counter

if TYPE_CHECKING:
    from pathlib import Path

CUDA = "cuda:0"


def probe(gpu: FakeNvml) -> GpuProbe:
    return GpuProbe(gpu, "the GPU")


def states(*gpus: FakeNvml) -> dict[str, GpuState]:
    return gpu_states({f"cuda:{index}": probe(gpu) for index, gpu in enumerate(gpus)})


def test_the_counter_is_read_from_where_it_stood() -> None:
    gpu = FakeNvml()
    gpu.energy_mj = 7_000_000
    with open_energy_meter(CUDA, [probe(gpu)]) as meter:
        assert meter.read_j() == 0
        gpu.energy_mj = 7_012_500
        assert meter.read_j() == pytest.approx(12.5)
        assert meter.method == "NVML's energy counter"
        assert meter.per(12.5, 50, 2.0) == (0.25, None)


def test_without_a_counter_power_is_added_up_over_time() -> None:
    gpu = FakeNvml()
    gpu.energy_mj, gpu.power_mw = None, 300_000
    with open_energy_meter(CUDA, [probe(gpu)], interval_s=0.005) as meter:
        first, begun = meter.read_j(), time.perf_counter()
        time.sleep(0.05)
        last, spent = meter.read_j(), time.perf_counter() - begun
    assert first is not None
    assert last is not None
    assert meter.method == "NVML's power, every 5 ms"
    # 300 W for as long as it took, but for the moments between a reading and the clock's.
    assert last - first == pytest.approx(300 * spent, rel=0.2)


def test_a_gap_in_the_power_is_spanned_by_the_next_sample() -> None:
    gpu = FakeNvml()
    gpu.energy_mj, gpu.power_mw = None, 100_000
    with open_energy_meter(CUDA, [probe(gpu)], interval_s=60.0) as meter:
        time.sleep(0.01)
        before, begun = meter.read_j(), time.perf_counter()
        gpu.power_mw = None
        time.sleep(0.02)
        assert meter.read_j() == before
        gpu.power_mw = 100_000
        after, spent = meter.read_j(), time.perf_counter() - begun
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(100 * spent, rel=0.2)


def test_unknown_energy_has_its_reason() -> None:
    silent = FakeNvml()
    silent.energy_mj = silent.power_mw = None
    with open_energy_meter(CUDA, [probe(silent)]) as meter:
        assert meter.read_j() is None
        value, reason = meter.per(None, 10, 5.0)
        assert value is None
        assert "neither" in (reason or "")
    with open_energy_meter(CUDA, []) as meter:
        assert meter.method is None
        assert "NVML" in (meter.per(meter.read_j(), 10, 5.0)[1] or "")
    with open_energy_meter(CUDA, [probe(FakeNvml())]) as meter:
        value, reason = meter.per(3.0, 10, SHORTEST_S / 2)
        assert value is None
        assert "too short" in (reason or "")


class RampedGpu(FakeNvml):
    """100 W when it is made, 500 W more each second; no counter."""

    def __init__(self) -> None:
        self.made = time.perf_counter()
        super().__init__()
        self.energy_mj = None

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return self._told(handle, round(1000 * (100 + 500 * (time.perf_counter() - self.made))))


def test_samples_of_a_power_that_rises_add_up_to_its_integral() -> None:
    """Trapezoids under a line are its integral, however the samples lie."""
    gpu = RampedGpu()
    with open_energy_meter(CUDA, [probe(gpu)], interval_s=0.02) as meter:
        first, begun = meter.read_j(), time.perf_counter() - gpu.made
        time.sleep(0.3)
        last, ended = meter.read_j(), time.perf_counter() - gpu.made
    assert first is not None
    assert last is not None
    by_hand = 100 * (ended - begun) + 250 * (ended**2 - begun**2)
    assert last - first == pytest.approx(by_hand, rel=0.1)


def test_the_processors_of_a_cpu_are_read_over_the_ends_of_their_ranges(tmp_path: Path) -> None:
    """The range ends soon after the beginning, and the thread looks by itself."""
    powercap = Powercap(tmp_path / "powercap")
    begun_uj, range_uj = 99_900_000, 100_000_000
    counter = powercap.add("intel-rapl:0", "package-0", begun_uj, range_uj)
    powercap.add("intel-rapl:0:0", "dram", 3_000_000)
    with open_energy_meter("cpu", interval_s=0.005, powercap=powercap.folder) as meter:
        with Drawing(counter, begun_uj, range_uj, step_uj=20_000) as drawing:
            time.sleep(0.1)
        joules = meter.read_j()
    assert drawing.drawn_uj > range_uj - begun_uj
    assert joules == pytest.approx(drawing.drawn_uj / 1e6)
    assert meter.method == "RAPL's counters of package-0, package-0 dram"
    assert meter.per(joules, 4, 1.0) == (pytest.approx(drawing.drawn_uj / 4e6), None)
    assert "too short" in (meter.per(joules, 4, 0.001)[1] or "")


def test_many_ranges_that_no_reading_spans_are_seen_by_the_thread(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path / "powercap")
    counter = powercap.add("intel-rapl:0", "package-0", 0, 100_000_000)
    drawn = 0
    with open_energy_meter("cpu", interval_s=0.001, powercap=powercap.folder) as meter:
        for _ in range(8):  # 240 J in all
            drawn += 30_000_000
            set_counter(counter, drawn % 100_000_000)
            time.sleep(0.1)
        assert meter.read_j() == pytest.approx(240.0)


def test_a_machine_without_counters_says_what_it_lacks(tmp_path: Path) -> None:
    with open_energy_meter("cpu", powercap=tmp_path / "none") as meter:
        assert meter.method is None
        assert meter.read_j() is None
        value, reason = meter.per(meter.read_j(), 10, 5.0)
    assert value is None
    assert str(tmp_path / "none") in (reason or "")


@dataclass
class Phases:
    """A GPU whose counter goes on by what each step draws."""

    gpu: FakeNvml
    prefill_s: float
    decode_s: float

    def run(self, energy: LatencyEnergy) -> None:
        """One iteration: 30 J for prefill, 200 for decode, 1000 between iterations."""
        assert self.gpu.energy_mj is not None
        self.gpu.energy_mj += 1_000_000
        energy.begin()
        for step, seconds, joules in (
            ("prefill", self.prefill_s, 30),
            ("decode", self.decode_s, 200),
        ):
            time.sleep(seconds)
            self.gpu.energy_mj += 1000 * joules
            energy.end(step)


POINT = GridPoint(batch=2, prompt_tokens=5, new_tokens=10)


def drawn_by(phases: Phases, iterations: int) -> dict[str, Any]:
    with open_latency_energy(CUDA, [probe(phases.gpu)]) as energy:
        energy.start()
        for _ in range(iterations):
            phases.run(energy)
        found = energy.found(POINT, iterations=iterations)
    assert found.details["host_energy"].keys() == {"method", "j_a_new_token", "reason"}
    return {metric.name: metric.value or metric.reason for metric in found.metrics}


def test_prefill_and_decode_that_last_long_enough_are_told_apart() -> None:
    found = drawn_by(Phases(FakeNvml(), SHORTEST_S * 1.02, SHORTEST_S * 1.02), 1)
    assert found["latency.energy.prefill"] == pytest.approx(30 / (2 * 5))
    assert found["latency.energy.decode"] == pytest.approx(200 / (2 * 10))
    # What lies between iterations belongs to none of them, and to the whole.
    assert found["latency.energy"] == pytest.approx(1230 / (2 * 10))


def test_a_step_that_is_too_short_for_the_counter_has_its_reason() -> None:
    found = drawn_by(Phases(FakeNvml(), 0.01, SHORTEST_S * 1.02), 1)
    assert found["latency.energy.decode"] == pytest.approx(10.0)
    assert "a prefill is too short" in found["latency.energy.prefill"]
    assert found["latency.energy.prefill"].endswith("raise batch or prompt_tokens")


def test_power_alone_does_not_tell_steps_apart() -> None:
    gpu = FakeNvml()
    gpu.energy_mj, gpu.power_mw = None, 300_000
    with open_latency_energy(CUDA, [probe(gpu)]) as energy:
        energy.start()
        energy.begin()
        energy.end("prefill")
        energy.end("decode")
        found = {one.name: one.reason for one in energy.found(POINT, iterations=1).metrics}
    assert "does not tell one step from the next" in (found["latency.energy.decode"] or "")


@pytest.mark.parametrize("counter", [True, False])
def test_the_gpus_of_a_model_are_added_up(*, counter: bool) -> None:
    first, second = FakeNvml(), FakeNvml()
    first.power_mw, second.power_mw = 200_000, 100_000
    if not counter:
        first.energy_mj = None  # one that has only the power: then the power of both is taken
    with open_energy_meter(CUDA, [probe(first), probe(second)], interval_s=60.0) as meter:
        before, begun = meter.read_j(), time.perf_counter()
        if counter:
            first.energy_mj, second.energy_mj = 4_000, 3_000
        time.sleep(0.02)
        after, spent = meter.read_j(), time.perf_counter() - begun
        second.energy_mj = second.power_mw = None
        assert counter is (meter.read_j() is None)  # of power, a gap is spanned
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(7.0 if counter else 300 * spent, rel=0.2)


def test_each_of_several_gpus_is_looked_at() -> None:
    first, second = FakeNvml(), FakeNvml()
    before = states(first, second)
    second.temperature_c = 55
    after = states(first, second)
    (warning,) = clock_warnings(before, after)
    assert warning.startswith("cuda:1: the GPU went from 40 to 55 °C")
    details = clock_details(before, after)
    assert details is not None
    assert details["cuda:1"]["after"]["temperature_c"] == 55
    assert details["cuda:0"]["after"]["temperature_c"] == 40


def test_a_cpu_has_no_probe() -> None:
    with gpu_probes(["cpu"]) as none:
        assert none == {}
    assert used_bytes_by_device(["cpu"]) == {}
    with gpu_probe("cpu") as found:
        assert found is None
    assert device_used_bytes("cpu") is None


def test_what_a_gpu_does_not_tell_is_none_and_the_rest_is_told() -> None:
    gpu = FakeNvml()
    gpu.temperature_c, gpu.used = None, 3 * 2**30
    state = probe(gpu).state()
    assert state.temperature_c is None
    assert (state.sm_mhz, state.sm_most_mhz, state.memory_mhz) == (1980, 1980, 2619)
    assert state.throttled_by == ()
    assert probe(gpu).used_bytes() == 3 * 2**30


def test_a_steady_gpu_gets_no_warning() -> None:
    gpu = FakeNvml()
    before = states(gpu)
    gpu.temperature_c, gpu.sm_mhz = 49, 1800
    after = states(gpu)
    assert clock_warnings(before, after) == ()
    assert clock_warnings({}, {}) == ()
    details = clock_details(before, after)
    assert details is not None
    assert (details["before"]["sm_mhz"], details["after"]["sm_mhz"]) == (1980, 1800)
    assert clock_details({}, {}) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reasons": 0x4, "sm_mhz": 1900}, "throttled by power cap: it ran at 1900 of 1980 MHz"),
        ({"reasons": 0x20, "sm_mhz": 1900}, "temperature (software): it ran at 1900 of 1980 MHz"),
        ({"sm_mhz": 1700}, "clock fell from 1980 to 1700 MHz"),
        ({"temperature_c": 55}, "went from 40 to 55 °C"),
    ],
)
def test_what_makes_a_timing_unstable_is_told_with_a_remedy(
    changes: dict[str, int], words: str
) -> None:
    gpu = FakeNvml()
    before = states(gpu)
    for name, value in changes.items():
        setattr(gpu, name, value)
    (warning,) = clock_warnings(before, states(gpu))
    assert words in warning
    assert ";" in warning or ":" in warning


def test_throttling_before_counts_too() -> None:
    gpu = FakeNvml()
    gpu.reasons = 0x8
    before = states(gpu)
    gpu.reasons, gpu.sm_mhz = 0x4, 1900
    (warning,) = clock_warnings(before, states(gpu))
    assert "hardware slowdown, power cap" in warning


def test_steps_that_were_measured_or_evaluated_do_not_count() -> None:
    """Six steps of 100 tokens and 50 J; the first is untimed, the second too, two are evaluated."""
    gpu = FakeNvml()
    progress: Any = SimpleNamespace(
        step=0, tokens=[100] * 6, untimed=[0, 1], validation={0: 3.0, 4: 2.0, 6: 1.5}
    )
    with open_energy_meter(CUDA, [probe(gpu)]) as meter:
        watch = StepWatch(6, {"cuda:0": probe(gpu)}, meter, "cpu")
        for step in range(6):
            assert gpu.energy_mj is not None
            gpu.energy_mj += 900_000 if step + 1 in progress.validation else 50_000
            progress.step = step + 1
            gpu.temperature_c = 40 + step
            time.sleep(SHORTEST_S / 2)
            watch(progress)
        assert set(watch.spent) == {1, 2, 3, 4, 5}
        value, reason = watch.energy(progress, progress.tokens.__getitem__)
        per_example = watch.energy(progress, {2: 3, 4: 5}.__getitem__)
    # Steps 2 and 4 are left: 100 J for 200 tokens.
    assert reason is None
    assert value == pytest.approx(0.5)
    assert per_example == (pytest.approx(100 / 8), None)
    assert watch.details["gpu"]["before"]["temperature_c"] == 40
    assert watch.details["gpu"]["after"]["temperature_c"] == 45


def test_a_training_without_a_timed_step_says_so() -> None:
    gpu = FakeNvml()
    progress: Any = SimpleNamespace(step=0, tokens=[100] * 2, untimed=[0, 1], validation={2: 1.0})
    with open_energy_meter(CUDA, [probe(gpu)]) as meter:
        watch = StepWatch(2, {"cuda:0": probe(gpu)}, meter, "cpu")
        for step in (1, 2):
            progress.step = step
            watch(progress)
        assert watch.energy(progress, lambda _: 4) == (None, "no step was timed; train for more")


@pytest.mark.parametrize(("is_old", "used"), [(False, 3 * 2**30), (True, 3 * 2**30 + 600)])
def test_what_the_driver_keeps_for_itself_is_not_held_by_others(*, is_old: bool, used: int) -> None:
    gpu = FakeNvml()
    gpu.used, gpu.reserved, gpu.is_old = 3 * 2**30, 600, is_old
    assert probe(gpu).used_bytes() == used
    assert probe(gpu).free_bytes() == 2**34 - 3 * 2**30 - 600


@pytest.mark.parametrize(
    ("mhz", "reasons", "named"),
    [
        (1980, 0x4, None),  # the power cap is reached, and takes nothing
        (1965, 0x4, None),
        (1410, 0x4, "power cap: it ran at 1410 of 1980 MHz"),
        (1980, 0x20, "temperature (software): it ran at 1980"),
        (1980, 0x24, "throttled by temperature (software): it ran"),
        (None, 0x4, "power cap"),  # the clock is not told: it may be a slowdown
    ],
)
def test_a_power_cap_at_full_clock_is_no_slowdown(
    mhz: int | None, reasons: int, named: str | None
) -> None:
    gpu = FakeNvml()
    gpu.sm_mhz, gpu.reasons = mhz, reasons
    warnings = clock_warnings(states(gpu), states(gpu))
    assert len(warnings) == (named is not None)
    assert named is None or named in warnings[0]
