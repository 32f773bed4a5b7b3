"""What NVML says of a GPU beside torch: memory that anyone holds, clocks, throttling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from qbench.environment import nvml, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

Answer = TypeVar("Answer")

IN_USE_BYTES = 2**30
"""Memory held before a run above which the device counts as in use by others."""

_THROTTLE_REASONS = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "temperature (software)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "temperature (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


def device_used_bytes(device: str) -> int | None:
    """Memory of the GPU that is held by any process; None on a CPU or where NVML is silent.

    Process ids do not resolve inside containers, so it is the whole device's figure, to be taken
    less its level before the run.
    """
    return _ask(device, _used_bytes)


def clocks(device: str) -> dict[str, Any] | None:
    """Clocks in MHz, temperature in °C and reasons for throttling now; None as above."""
    return _ask(device, _clocks)


def _clocks(library: ModuleType, handle: Any) -> dict[str, Any]:
    throttling = int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return {
        "sm_mhz": int(library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
        "memory_mhz": int(library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
        "sm_most_mhz": int(library.nvmlDeviceGetMaxClockInfo(handle, library.NVML_CLOCK_SM)),
        "temperature_c": int(
            library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)
        ),
        "throttled_by": [
            words
            for name, words in _THROTTLE_REASONS.items()
            if throttling & int(getattr(library, name, 0))
        ],
    }


def _used_bytes(library: ModuleType, handle: Any) -> int:
    return int(library.nvmlDeviceGetMemoryInfo(handle).used)


def _ask(device: str, question: Callable[[ModuleType, Any], Answer]) -> Answer | None:
    """NVML's answer about the device; None on a CPU, without NVML, or where it has none."""
    if not device.startswith("cuda"):
        return None
    index = int(device.partition(":")[2] or 0)
    gpus = visible_gpus()
    with nvml() as library:
        if library is None or index >= len(gpus):
            return None
        try:
            return question(library, library.nvmlDeviceGetHandleByUUID(gpus[index].uuid))
        except library.NVMLError:
            return None
