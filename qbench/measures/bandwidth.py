"""Measured copy bandwidth of a device: what a memory-bound computation can reach at best."""

from __future__ import annotations

import time
from functools import cache

COPY_BYTES = 256 * 2**20
_COPIES = 5


@cache
def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of the best of a few copies of 256 MiB; once a process."""
    import torch

    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    best_s = float("inf")
    for _ in range(_COPIES):
        _synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        _synchronize(device)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * COPY_BYTES / best_s


def _synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
