"""CUDA's driver and runtime as torch's extension module shows them, without tensors.

torch.cuda itself is torch's own: only what it asks of `torch._C` is answered here. As in CUDA,
the first question reads `CUDA_VISIBLE_DEVICES` once and for all, and spoils the process's forks.
"""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any, Self

from gpu_cards import Card, cards, faults, used_by_others_bytes, uuid_of

CONTEXT_BYTES = 500 * 2**20


class _Driver:
    """What a process's driver knows."""

    def __init__(self) -> None:
        self.visible: list[Card] | None = None
        """None until the first question."""
        self.places: list[int] = []
        """Where each of them is on the bus."""
        self.in_bad_fork = False
        self.current = 0

    def begin(self) -> list[Card]:
        if self.visible is None:
            self.places = _visible_places()
            self.visible = [cards()[place] for place in self.places]
            os.register_at_fork(after_in_child=self._spoil)
            if log := os.environ.get("GPU_STANDIN_LOG"):
                with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123
                    file.write(f"{os.getpid()} {' '.join(_callers())}\n")
        return self.visible

    def _spoil(self) -> None:
        self.in_bad_fork = True


driver = _Driver()


def _visible_places() -> list[int]:
    """As CUDA reads the variable: indices or ids; the first that names nothing ends the list."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = cards()
    if setting is None:
        return list(range(len(every)))
    chosen: list[int] = []
    for entry in (part.strip() for part in setting.split(",")):
        found = [
            index
            for index in range(len(every))
            if entry == str(index) or (entry and uuid_of(index).startswith(entry))
        ]
        if len(found) != 1:
            break
        chosen += found
    return chosen


def _callers() -> list[str]:
    import traceback

    return [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-2]]


class Memory:
    """A GPU's allocator: bytes in blocks of 512, reserved in segments of 2 MiB."""

    block, segment = 512, 2 * 2**20

    def __init__(self, index: int) -> None:
        self._index = index
        self.now = self.peak = self.reserved = self.reserved_peak = 0

    def take(self, nbytes: int) -> int:
        """Bytes that a request of this size takes."""
        size = -(-nbytes // self.block) * self.block
        if size > free_bytes(self._index) + self.reserved - self.now:
            raise sys.modules["torch"].OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB."
            )
        self.now += size
        self.peak = max(self.peak, self.now)
        self.reserved = max(self.reserved, self._segments())
        self.reserved_peak = max(self.reserved_peak, self.reserved)
        return size

    def give_back(self, size: int) -> None:
        self.now -= size

    def empty_cache(self) -> None:
        self.reserved = self._segments()

    def reset_peak(self) -> None:
        self.peak, self.reserved_peak = self.now, self.reserved

    def _segments(self) -> int:
        return -(-self.now // self.segment) * self.segment


def held_bytes(place: int) -> int:
    """What this process holds of the card at this place: its context and its allocator's share."""
    if place not in driver.places:
        return 0
    return CONTEXT_BYTES + memories[driver.places.index(place)].reserved


memories = [Memory(index) for index, _ in enumerate(cards())]


class _Event:
    """An event whose device has always just done what it was given."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def record(self, stream: Any) -> None:
        self._at_s = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        return 1000 * (end._at_s - self._at_s)

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class _Stream:
    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)


def install(extension: Any) -> None:
    """Puts CUDA's functions into `torch._C`, which has just been loaded."""

    def init() -> None:
        if "old-driver" in faults():
            raise RuntimeError(
                "The NVIDIA driver on your system is too old (found version 11000). Please update"
                " your GPU driver by downloading and installing a new version."
            )
        if not driver.begin():
            raise RuntimeError("No CUDA GPUs are available")
        cuda = sys.modules["torch.cuda"]
        cuda._get_device_properties = _properties
        cuda.default_generators = tuple(extension.Generator() for _ in driver.begin())

    def count() -> int:
        visible = driver.begin()
        return 0 if "old-driver" in faults() else len(visible)

    def choose(index: int) -> None:
        if not 0 <= index < len(driver.begin()):
            raise extension.AcceleratorError("CUDA error: invalid device ordinal")
        driver.current = index

    def exchange(index: int) -> int:
        before = driver.current
        if index >= 0:
            choose(index)
        return before

    functions = {
        "_has_cuda": True,
        "_cuda_init": init,
        "_cuda_getDeviceCount": count,
        "_cuda_isInBadFork": lambda: driver.in_bad_fork,
        "_cuda_getDevice": lambda: driver.current,
        "_cuda_setDevice": choose,
        "_cuda_exchangeDevice": exchange,
        "_cuda_maybeExchangeDevice": exchange,
        "_cuda_getArchFlags": lambda: "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
        "_cuda_getCurrentStream": lambda index: (0, index, 1),
        "_cuda_getCurrentRawStream": lambda index: 0,
        "_cuda_synchronize": lambda: None,
        "_cuda_emptyCache": lambda: [memory.empty_cache() for memory in memories],
        "_cuda_memoryStats": _statistics,
        "_cuda_resetPeakMemoryStats": lambda index: memories[index].reset_peak(),
        "_cuda_isCurrentStreamCapturing": lambda: False,
        "_graph_pool_handle": lambda: (0, 0),
        "_CUDAGraph": object,
        "_CudaEventBase": _Event,
        "_CudaStreamBase": _Stream,
        "_cudart": SimpleNamespace(
            cudaError=lambda code: code, cudaGetErrorString=str, cudaMemGetInfo=_free_and_total
        ),
    }
    for name, value in functions.items():
        setattr(extension, name, value)


def answer_for_nvml(cuda: Any) -> None:
    """torch loads NVML's library by itself for some questions."""
    cuda._raw_device_count_nvml = lambda: len(cards())
    cuda._raw_device_uuid_nvml = lambda: [uuid_of(index) for index in range(len(cards()))]


def _properties(index: int) -> SimpleNamespace:
    card = driver.begin()[index]
    return SimpleNamespace(
        name=card.name,
        major=card.capability[0],
        minor=card.capability[1],
        total_memory=card.memory_bytes,
        multi_processor_count=card.multiprocessors,
        gcnArchName="",
    )


def free_bytes(index: int) -> int:
    """What the driver has left of a visible GPU."""
    card = driver.begin()[index]
    others = used_by_others_bytes()
    return card.memory_bytes - card.reserved_bytes - others - memories[index].reserved


def _free_and_total(index: int) -> tuple[int, int]:
    return free_bytes(index), driver.begin()[index].memory_bytes


def _statistics(index: int) -> dict[str, Any]:
    memory = memories[index]
    return {
        "num_alloc_retries": 0,
        "num_ooms": 0,
        "allocated_bytes": {"all": {"current": memory.now, "peak": memory.peak}},
        "reserved_bytes": {"all": {"current": memory.reserved, "peak": memory.reserved_peak}},
    }
