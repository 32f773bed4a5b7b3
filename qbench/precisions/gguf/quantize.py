"""A matrix made into blocks: by the package gguf, or by qbench where the package cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions.gguf.kquants import quantize_k
from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    import torch

AT_ONCE = 2**20
"""Weights that are quantized at once: the search takes some fifty bytes for each."""
BY_QBENCH = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""What the package reads, but does not make."""


def to_blocks(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The blocks of a matrix (out, in): uint8, (out, bytes of a row), on its device."""
    import torch

    outputs, width = weight.shape
    row_bytes = BY_NAME[kind].row_bytes(width)
    made = torch.empty(outputs, row_bytes, dtype=torch.uint8, device=weight.device)
    step = max(1, AT_ONCE // width)
    for start in range(0, outputs, step):
        given = weight[start : start + step].detach().float()
        rows = given.where(given.isfinite(), 0.0)
        if kind in BY_QBENCH:
            blocks = quantize_k(rows.reshape(-1, BY_NAME[kind].weights), kind)
        else:
            blocks = _by_package(rows, kind)
        blocks = blocks.view(-1, BY_NAME[kind].bytes)
        # No scale is a number then. Some searches would make finite weights of NaN and infinity.
        blocks[~given.reshape(len(blocks), -1).isfinite().all(dim=1)] = 0xFF
        made[start : start + step] = blocks.view(-1, row_bytes)
    return made


def _by_package(rows: torch.Tensor, kind: str) -> torch.Tensor:
    import torch
    from gguf import GGMLQuantizationType, quantize

    made = quantize(rows.cpu().numpy(), GGMLQuantizationType[kind])
    return torch.from_numpy(made).to(rows.device)
