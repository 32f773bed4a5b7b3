"""cuBLAS' workspaces: memory that torch keeps from a thread's first product of matrices on a GPU.

32 MiB on Hopper, 8 MiB on other GPUs, for each thread that multiplies; a backward pass has a thread
of its own. They are made before anything is measured, so that no phase differs by them: they are
part of the level that peaks are taken from, and no part of any prediction.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIDE = 32
_TYPES = ("float32", "bfloat16", "float16")
_made: dict[str, int] = {}


def make_workspaces(devices: Iterable[str]) -> None:
    """Makes them on GPUs (`cuda:0`) on which this process has not made them yet."""
    import torch

    for device in devices:
        if device not in _made:
            before = torch.cuda.memory_allocated(device)
            _multiply(device)
            torch.cuda.synchronize(device)
            _made[device] = torch.cuda.memory_allocated(device) - before


def workspace_bytes(devices: Iterable[str]) -> int:
    """What has been made on these devices; nothing on a CPU."""
    return sum(_made.get(device, 0) for device in devices)


def _multiply(device: str) -> None:
    """Products in each type, with and without a bias, and those of their backward passes."""
    import torch

    for name in _TYPES:
        with suppress(RuntimeError):  # a type that this GPU does not multiply needs no workspace
            given = torch.ones(
                _SIDE, _SIDE, dtype=getattr(torch, name), device=device, requires_grad=True
            )
            torch.nn.functional.linear(given @ given, given, given[0]).sum().backward()  # type: ignore[no-untyped-call]
    with suppress(RuntimeError):
        codes = torch.ones(_SIDE, _SIDE, dtype=torch.int8, device=device)
        torch._int_mm(codes, codes)  # noqa: SLF001 - there is no public name for it
