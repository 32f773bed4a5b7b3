"""NVML for the cards of the stand-in, with NVML's own names; a handle is a place on the bus."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from gpu_cards import Card, cards, faults, used_by_others_bytes, uuid_of

NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
NVML_TEMPERATURE_GPU = 0
nvmlMemory_v2 = 0x02000028
nvmlClocksThrottleReasonSwPowerCap = 0x4
nvmlClocksThrottleReasonHwSlowdown = 0x8
nvmlClocksThrottleReasonSwThermalSlowdown = 0x20
nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80

_MOST_SM_MHZ = 1980
_POWER_W = 300
_opened = [0]


class NVMLError(Exception):
    """Any refusal."""


class NVMLError_NoPermission(NVMLError):
    def __str__(self) -> str:
        return "Insufficient Permissions"


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_DriverNotLoaded(NVMLError):
    pass


class NVMLError_LibRmVersionMismatch(NVMLError):
    def __str__(self) -> str:
        return "Driver/library version mismatch"


class NVMLError_NotFound(NVMLError):
    def __str__(self) -> str:
        return "Not Found"


def nvmlInit() -> None:
    if "nvml-mismatch" in faults():
        raise NVMLError_LibRmVersionMismatch
    _opened[0] += 1


def nvmlShutdown() -> None:
    _opened[0] -= 1


def nvmlSystemGetDriverVersion() -> str:
    return "450.80.02" if "old-driver" in faults() else "580.82.07"


def nvmlDeviceGetCount() -> int:
    if _opened[0] <= 0:
        raise NVMLError("Uninitialized")
    return len(cards())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    nvmlDeviceGetCount()
    if "nvml-permission" in faults() and index == 0:
        raise NVMLError_NoPermission
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    for index in range(nvmlDeviceGetCount()):
        if uuid_of(index) == uuid:
            return nvmlDeviceGetHandleByIndex(index)
    raise NVMLError_NotFound


def nvmlDeviceGetUUID(handle: int) -> str:
    return uuid_of(handle)


def nvmlDeviceGetName(handle: int) -> str:
    return _card(handle).name


def nvmlDeviceGetCudaComputeCapability(handle: int) -> list[int]:
    return list(_card(handle).capability)


def nvmlDeviceGetMemoryInfo(handle: int, version: int | None = None) -> SimpleNamespace:
    """The first version counts what the driver keeps for itself as used."""
    if "nvml-memory" in faults():
        raise NVMLError_NoPermission
    card = _card(handle)
    used = used_by_others_bytes()
    if "torch" in sys.modules:  # else this process holds nothing
        import gpu_driver

        used += gpu_driver.held_bytes(handle)
    if version is None:
        used += card.reserved_bytes
        return SimpleNamespace(total=card.memory_bytes, used=used, free=card.memory_bytes - used)
    free = card.memory_bytes - card.reserved_bytes - used
    return SimpleNamespace(
        version=version,
        total=card.memory_bytes,
        reserved=card.reserved_bytes,
        used=used,
        free=free,
    )


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:
    return int(time.monotonic() * _POWER_W * 1000)


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return _POWER_W * 1000


def nvmlDeviceGetClockInfo(handle: int, clock: int) -> int:
    return _MOST_SM_MHZ if clock == NVML_CLOCK_SM else 2619


def nvmlDeviceGetMaxClockInfo(handle: int, clock: int) -> int:
    return nvmlDeviceGetClockInfo(handle, clock)


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    return 50


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: int) -> int:
    return 0


def _card(handle: int) -> Card:
    return cards()[handle]


if "nvml-silent" in faults():
    del nvmlSystemGetDriverVersion, nvmlDeviceGetCudaComputeCapability
