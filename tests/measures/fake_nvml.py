"""What answers like NVML for one GPU whose figures a test sets; it is handed in, never patched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class FakeNvmlError(Exception):
    """As NVML raises for what a GPU does not support."""

    def __init__(self, words: str, value: int = 3) -> None:
        super().__init__(words)
        self.value = value


class FakeNvml:
    """One GPU. What is None it does not support."""

    NVMLError = FakeNvmlError
    NVML_ERROR_NOT_FOUND = 6
    nvmlMemory_v2 = 0x02000028  # noqa: N815
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    nvmlClocksThrottleReasonSwPowerCap = 0x4  # noqa: N815 - NVML's name
    nvmlClocksThrottleReasonHwSlowdown = 0x8  # noqa: N815
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20  # noqa: N815

    def __init__(self) -> None:
        self.energy_mj: int | None = 0
        self.power_mw: int | None = 0
        self.sm_mhz: int | None = 1980
        self.temperature_c: int | None = 40
        self.reasons: int | None = 0
        self.used: int | None = 0
        self.reserved = 0
        self.is_old = False
        self.processes: list[tuple[int, int]] | None = []
        """Id and per cent of each sample."""

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        return self._told(handle, self.energy_mj)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return self._told(handle, self.power_mw)

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> int:  # noqa: N802
        return self._told(handle, self.sm_mhz if clock == self.NVML_CLOCK_SM else 2619)

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, clock: int) -> int:  # noqa: N802
        return self._told(handle, 1980)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        return self._told(handle, self.temperature_c)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:  # noqa: N802
        return self._told(handle, self.reasons)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:  # noqa: N802
        used = self._told(handle, self.used)
        free = 2**34 - used - self.reserved
        if version is None:
            return SimpleNamespace(total=2**34, used=used + self.reserved, free=free)
        if self.is_old or version != self.nvmlMemory_v2:
            raise FakeNvmlError("Function Not Found")
        return SimpleNamespace(total=2**34, used=used, free=free, reserved=self.reserved)

    def nvmlDeviceGetProcessUtilization(self, handle: Any, since_us: int) -> list[Any]:  # noqa: N802
        assert handle == "the GPU"
        assert since_us > 1e15  # microseconds since 1970
        if self.processes is None:
            raise FakeNvmlError("Not Supported")
        if not self.processes:
            raise FakeNvmlError("Not Found", self.NVML_ERROR_NOT_FOUND)
        return [SimpleNamespace(pid=pid, smUtil=percent) for pid, percent in self.processes]

    def _told(self, handle: Any, value: int | None) -> int:
        assert handle == "the GPU"
        if value is None:
            raise FakeNvmlError("Not Supported")
        return value
