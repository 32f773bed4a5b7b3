"""What NVML says of a GPU beside torch: memory that anyone holds, clocks, throttling, energy."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from qbench.core.nvml import nvml, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Answer = TypeVar("Answer")

IN_USE_BYTES = 2**30
"""Memory held before a run above which the device counts as in use by others."""

POWER_CAP = "power cap"
_THROTTLE_REASONS = {
    "nvmlClocksThrottleReasonSwPowerCap": POWER_CAP,
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "temperature (software)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "temperature (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


@dataclass(frozen=True)
class GpuState:
    """How a GPU runs at one moment; None for what its driver does not tell."""

    sm_mhz: int | None
    """Clock of the multiprocessors."""
    sm_most_mhz: int | None
    """The highest clock that they can have."""
    memory_mhz: int | None
    temperature_c: int | None
    throttled_by: tuple[str, ...] | None
    """Why the clock is lower than asked for; empty when nothing holds it back."""


class GpuProbe:
    """Asks NVML about one GPU. What a GPU does not support (parts of one, old ones) is None."""

    def __init__(self, library: Any, handle: Any) -> None:
        """`library` is pynvml, initialised, or what answers like it; `handle` names the GPU."""
        self._library = library
        self._handle = handle

    def used_bytes(self) -> int | None:
        """Memory that any process holds, without what the driver keeps for itself."""
        memory = self._memory()
        return None if memory is None else int(memory.used)

    def free_bytes(self) -> int | None:
        """Memory that is still free."""
        memory = self._memory()
        return None if memory is None else int(memory.free)

    def _memory(self) -> Any | None:
        """NVML's figures; its first version, of old drivers, counts the driver's own as used."""
        version = getattr(self._library, "nvmlMemory_v2", None)
        second = version and self._ask(
            lambda nv, gpu: nv.nvmlDeviceGetMemoryInfo(gpu, version=version)
        )
        return second or self._ask(lambda nv, gpu: nv.nvmlDeviceGetMemoryInfo(gpu))

    def energy_j(self) -> float | None:
        """Joules drawn since the driver was loaded, by the GPU's own counter (from Volta on)."""
        return self._ask(
            lambda library, handle: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        )

    def power_w(self) -> float | None:
        """Watts drawn now, or over the last second where the driver averages."""
        return self._ask(lambda library, handle: library.nvmlDeviceGetPowerUsage(handle) / 1000)

    def use_by_process(self, since_s: float) -> dict[int, float] | None:
        """Share of the time since a moment (`time.time()`) that each process id computed.

        Empty where nothing did. The ids are those of the machine: a container has others.
        """
        missing = getattr(self._library, "NVML_ERROR_NOT_FOUND", None)
        try:
            samples = self._library.nvmlDeviceGetProcessUtilization(
                self._handle, round(since_s * 1e6)
            )
        except (self._library.NVMLError, AttributeError) as error:
            return {} if missing is not None and getattr(error, "value", None) == missing else None
        shares: dict[int, list[float]] = {}
        for one in samples:
            shares.setdefault(int(one.pid), []).append(int(one.smUtil) / 100)
        return {pid: fmean(each) for pid, each in shares.items()}

    def state(self) -> GpuState:
        """Clocks, temperature and throttling now."""
        return GpuState(
            sm_mhz=self._ask(lambda nv, gpu: int(nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_SM))),
            sm_most_mhz=self._ask(
                lambda nv, gpu: int(nv.nvmlDeviceGetMaxClockInfo(gpu, nv.NVML_CLOCK_SM))
            ),
            memory_mhz=self._ask(
                lambda nv, gpu: int(nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_MEM))
            ),
            temperature_c=self._ask(
                lambda nv, gpu: int(nv.nvmlDeviceGetTemperature(gpu, nv.NVML_TEMPERATURE_GPU))
            ),
            throttled_by=self._ask(_throttle_reasons),
        )

    def _ask(self, question: Callable[[Any, Any], Answer]) -> Answer | None:
        try:
            return question(self._library, self._handle)
        except self._library.NVMLError:
            return None


@contextmanager
def gpu_probe(device: str) -> Iterator[GpuProbe | None]:
    """NVML's view of a device that torch names; None on a CPU, and where NVML does not tell."""
    if not device.startswith("cuda"):
        yield None
        return
    index = int(device.partition(":")[2] or 0)
    gpus = visible_gpus()
    with nvml() as library:
        if library is None or index >= len(gpus):
            yield None
            return
        try:
            handle = library.nvmlDeviceGetHandleByUUID(gpus[index].uuid)
        except library.NVMLError:
            handle = None
        yield None if handle is None else GpuProbe(library, handle)


def device_used_bytes(device: str) -> int | None:
    """Memory of the GPU that is held by any process; None on a CPU or where NVML does not tell.

    Process ids do not resolve inside containers, so it is the whole device's figure, to be taken
    less its level before the run.
    """
    with gpu_probe(device) as probe:
        return None if probe is None else probe.used_bytes()


def device_free_bytes(device: str) -> int | None:
    """Memory of the GPU that is still free; None on a CPU or where NVML does not tell."""
    with gpu_probe(device) as probe:
        return None if probe is None else probe.free_bytes()


def used_bytes_by_device(devices: Iterable[str]) -> dict[str, int]:
    """`device_used_bytes` of each device; without those that NVML does not tell of."""
    used = {device: device_used_bytes(device) for device in devices}
    return {device: size for device, size in used.items() if size is not None}


@contextmanager
def gpu_probes(devices: Iterable[str]) -> Iterator[dict[str, GpuProbe]]:
    """NVML's view of all of these devices; empty where it does not tell of one."""
    with ExitStack() as stack:
        found = {device: stack.enter_context(gpu_probe(device)) for device in devices}
        known = {device: probe for device, probe in found.items() if probe is not None}
        yield known if len(known) == len(found) else {}


def _throttle_reasons(library: Any, handle: Any) -> tuple[str, ...]:
    reasons = int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return tuple(
        words
        for name, words in _THROTTLE_REASONS.items()
        if reasons & int(getattr(library, name, 0))
    )
