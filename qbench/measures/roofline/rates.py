"""What a device reaches at best: measured read bandwidth and matrix rate.

Every computation moves bytes and multiplies numbers; it takes at least as long as the slower of the
two takes at the device's best (Williams, Waterman, Patterson 2009, the roofline model). Both are
measured, once a process and after what it times, rather than read in a data sheet: the share of
them that a model reaches then says how much better the software could be on this very device.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.core.errors import is_out_of_memory
from qbench.core.number_types import INT8, TORCH_NAMES, torch_type

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

READ_BYTES = (2**20, 2**28)
"""The smallest and the largest that is read to measure a bandwidth: the largest is far above the
caches of any device, below the smallest a call's start is most of its time."""
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
"""Large enough to keep all multiprocessors or cores busy, small enough to take milliseconds."""
_ROUNDS = 5
_CALLS_A_ROUND = {"cuda": 8, "cpu": 1}
"""A call takes microseconds to start on a GPU, a read hardly more than a hundred."""
_READ_A_ROUND = 2**26
"""The least that is read in a round, however little is read at once."""
_ROW = 1024
"""Numbers in a row of the matrix that a vector is multiplied by."""


@dataclass(frozen=True)
class Rate:
    """A rate of the device, or why there is none."""

    per_s: float | None
    reason: str | None = None


def read_bandwidth(device: str, size_bytes: float) -> Rate:
    """Bytes a second that the device reads at best of a block of about this size.

    What fits into the device's caches is read from there, in a model as here. The block is the next
    smaller power of two, so that it fits wherever the size itself does, within `READ_BYTES`. The
    best round of sums and of products with a vector: nothing is written, which a copy does, and
    which takes half of a memory's bandwidth.
    """
    return _read_bandwidth(device, block_bytes(size_bytes))


def block_bytes(size_bytes: float) -> int:
    """The size of the block by which the bandwidth of reading so much is measured."""
    least, most = READ_BYTES
    return min(max(least, 1 << max(0, int(size_bytes).bit_length() - 1)), most)


@cache
def _read_bandwidth(device: str, size: int) -> Rate:
    import torch

    def block() -> torch.Tensor:
        # What is zero everywhere would be one page that all addresses stand for.
        return torch.ones(size // 4 // _ROW, _ROW, device=device)

    def sums() -> Callable[[], Any]:
        return block().view(torch.int64).sum

    def products() -> Callable[[], Any]:
        matrix = block()
        vector = torch.ones(_ROW, device=device)
        return lambda: torch.mv(matrix, vector)

    calls = max(_CALLS_A_ROUND[_kind(device)], _READ_A_ROUND // size)
    rates = [_rate(size, start, device, calls) for start in (sums, products)]
    return max(rates, key=lambda rate: rate.per_s or 0.0)


@cache
def matrix_rate(device: str, dtype: str) -> Rate:
    """Operations a second (a multiplication and an addition are two) of a large square product.

    `dtype` is `fp32`, `bf16`, `fp16` or `int8`; fp32 as torch is set up, without TF32 unless that
    was asked for.
    """
    import torch

    if dtype not in TORCH_NAMES:
        return Rate(None, f"there is no matrix rate for {dtype}, only for {', '.join(TORCH_NAMES)}")
    side = MATRIX_SIDE[_kind(device)]
    held = torch_type(dtype)

    def start() -> Callable[[], Any]:
        generator = torch.Generator(device=device).manual_seed(0)
        # Zeros would draw less power than a model's numbers do, and so run faster than it can.
        shape = (2, side, side)
        if dtype == INT8:
            pair = torch.randint(-127, 128, shape, dtype=held, device=device, generator=generator)
            # LLM.int8 multiplies by a transposed weight, which is what the fast kernels want.
            return lambda: torch._int_mm(pair[0], pair[1].t())  # noqa: SLF001 - has no public name
        pair = torch.randn(shape, device=device, generator=generator).to(held)
        return lambda: torch.mm(pair[0], pair[1].t())

    return _rate(2 * side**3, start, device, _CALLS_A_ROUND[_kind(device)])


def _rate(work: int, start: Callable[[], Callable[[], Any]], device: str, calls: int) -> Rate:
    """Work a second of the best round; the first round warms up."""
    import torch

    best_s = float("inf")
    try:
        with torch.inference_mode():
            call = start()
            for _ in range(_ROUNDS):
                _wait_for(device)
                started = time.perf_counter()
                for _ in range(calls):
                    call()
                _wait_for(device)
                best_s = min(best_s, time.perf_counter() - started)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return Rate(None, "no memory was left beside the model to measure the rates in")
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return Rate(None, f"this device and torch cannot compute it ({first})")
    return Rate(calls * work / best_s)


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _wait_for(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
