"""Peak memory between two moments, on CUDA by its allocator, on a CPU by the resident size.

On CUDA what the allocator keeps for later is given back at each boundary, so that nothing of an
earlier phase counts as reserved in the next.

On Linux the kernel keeps the high-water mark of a process's resident size; writing 5 to
`/proc/self/clear_refs` resets it. Where that is not allowed the resident size is sampled.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_SAMPLE_INTERVAL_S = 0.005


@dataclass(frozen=True)
class Peak:
    """The highest level between a boundary and the reading of it."""

    used_bytes: int
    """CUDA: allocated by tensors. CPU: resident size of the process."""
    reserved_bytes: int | None
    """CUDA: reserved by the allocator. None on a CPU, where nothing reserves."""
    allocation_retries: int | None
    """CUDA: times the allocator had to give back its cache and try again."""
    by_device: dict[str, int] = field(default_factory=dict)
    """`used_bytes` of each GPU, where there are several: each has its highest level at a moment of
    its own. Empty else."""


def release_cached(device: str) -> None:
    """Frees what nothing refers to any more; on CUDA, what the allocator keeps for later too."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


class PeakMeter:
    """Reads the level and the peak of memory on one device (`cpu`, `cuda:0`), or several GPUs."""

    def __init__(self, *devices: str) -> None:
        self._meter: _CudaMeter | _HighWaterMark | _Sampler
        if devices[0].startswith("cuda"):
            self._meter = _CudaMeter(devices)
        elif _can_reset_high_water_mark():
            self._meter = _HighWaterMark()
        else:
            self._meter = _Sampler()

    @property
    def method(self) -> str:
        """How peaks are obtained here, for the record."""
        return self._meter.method

    def level_bytes(self) -> int:
        """What is in use now."""
        return self._meter.level_bytes()

    def boundary(self) -> None:
        """Starts a phase: finishes what is running, frees what is unused, resets the peak."""
        gc.collect()
        _return_free_heap()
        self._meter.reset()

    def read(self) -> Peak:
        """The peak since the last boundary."""
        return self._meter.read()


@dataclass
class _CudaMeter:
    """Sums over its GPUs: of a model that is laid over several, each has a peak of its own."""

    devices: tuple[str, ...]
    method: str = "torch.cuda allocator"
    _retries: int = 0

    def level_bytes(self) -> int:
        import torch

        self._synchronize()
        return sum(map(torch.cuda.memory_allocated, self.devices))

    def reset(self) -> None:
        import torch

        self._synchronize()
        torch.cuda.empty_cache()
        for device in self.devices:
            torch.cuda.reset_peak_memory_stats(device)
        self._retries = self._count_retries()

    def read(self) -> Peak:
        import torch

        self._synchronize()
        used = {device: torch.cuda.max_memory_allocated(device) for device in self.devices}
        return Peak(
            sum(used.values()),
            sum(map(torch.cuda.max_memory_reserved, self.devices)),
            self._count_retries() - self._retries,
            used if len(used) > 1 else {},
        )

    def _synchronize(self) -> None:
        import torch

        for device in self.devices:
            torch.cuda.synchronize(device)

    def _count_retries(self) -> int:
        import torch

        statistics = map(torch.cuda.memory_stats, self.devices)
        return sum(found.get("num_alloc_retries", 0) for found in statistics)


@dataclass
class _HighWaterMark:
    method: str = "high-water mark of the resident size, reset at each phase"

    def level_bytes(self) -> int:
        return _status_bytes("VmRSS")

    def reset(self) -> None:
        _CLEAR_REFS.write_text("5")

    def read(self) -> Peak:
        return Peak(_status_bytes("VmHWM"), None, None)


@dataclass
class _Sampler:
    method: str = f"resident size sampled every {_SAMPLE_INTERVAL_S * 1000:g} ms"
    _highest_bytes: int = 0
    _process: psutil.Process = field(default_factory=psutil.Process)
    _thread: threading.Thread | None = None

    def level_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def reset(self) -> None:
        self._highest_bytes = self.level_bytes()
        if self._thread is None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def read(self) -> Peak:
        return Peak(max(self._highest_bytes, self.level_bytes()), None, None)

    def _sample(self) -> None:
        pause = threading.Event()
        while not pause.wait(_SAMPLE_INTERVAL_S):
            self._highest_bytes = max(self._highest_bytes, self.level_bytes())


def _can_reset_high_water_mark() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS}: no line {name}")


def _return_free_heap() -> None:
    """Gives the C heap's free pages back: one phase's garbage is not the next one's level."""
    with suppress(AttributeError, OSError):  # not glibc: its heap keeps what it keeps
        ctypes.CDLL(None).malloc_trim(0)
