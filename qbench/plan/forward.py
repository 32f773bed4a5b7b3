"""Why a forward pass cannot run in the way that an item asks for, told before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.compilers import why_not_compiled_for_cpu, why_not_compiled_for_gpu
from qbench.core.packages import missing_packages
from qbench.predict.work import GridPoint, work_of

if TYPE_CHECKING:
    from qbench.core.record import Environment
    from qbench.core.spec import Cell, Item

_OF_KERNELS = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash_attn_3"}
"""The packages that hold attention kernels."""


def why_not_run_so(cell: Cell, item: Item, environment: Environment) -> str | None:
    """Why an item's forward or attention cannot be had on this machine; None if it can."""
    point = work_of(item)
    if not isinstance(point, GridPoint):
        return None
    reason = _why_no_kernel(point.attention, environment)
    if reason is not None or point.forward == "eager":
        return reason
    if cell.kv_cache is not None:
        return (
            f"`forward: {point.forward}` needs a cache of a fixed size, and transformers has none"
            f" that is quantized; leave it out for the KV cache {cell.kv_cache}"
        )
    if point.forward == "compile":
        return _why_not_compiled(environment)
    return _why_no_graph(cell, environment) if point.forward == "cuda-graphs" else None


def _why_no_kernel(kernel: str | None, environment: Environment) -> str | None:
    package = None if kernel is None else _OF_KERNELS.get(kernel)
    if package is None:
        return None
    if environment.device_type == "cpu":
        return f"{kernel} runs on NVIDIA GPUs only; take sdpa or eager on a CPU"
    missing = missing_packages((package,), environment)
    return f"{kernel} {missing}" if missing else None


def _why_not_compiled(environment: Environment) -> str | None:
    if environment.device_type == "cpu":
        return why_not_compiled_for_cpu()
    missing = missing_packages(("triton",), environment)
    return f"torch.compile {missing}" if missing else why_not_compiled_for_gpu()


def _why_no_graph(cell: Cell, environment: Environment) -> str | None:
    if environment.device_type == "cpu":
        return "CUDA graphs are of NVIDIA GPUs; take eager, static or compile on a CPU"
    if cell.model.device_map is not None:
        return (
            "a CUDA graph is captured on one GPU, and the model is spread over several; take eager"
            " or static"
        )
    return None
