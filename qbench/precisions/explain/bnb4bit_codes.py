"""A weight as bitsandbytes holds it in 4 bits, unpacked: codes, scales, nested codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.precisions.bnb4bit import BLOCK
from qbench.precisions.layer_probe import relative_error

if TYPE_CHECKING:
    import torch

_KERNEL_TOLERANCE = 1e-5
"""More than fp32 rounds in sums; a narrower type may be off by its own epsilon."""


@dataclass(frozen=True)
class NestedCodes:
    """What the block scales are held as under double quantization."""

    codes: torch.Tensor
    """(blocks,), 0 to 255."""
    levels: tuple[float, ...]
    """The code book of 256 levels, by code."""
    absmax: torch.Tensor
    """(groups,), fp32: one for 256 blocks."""
    offset: float


@dataclass(frozen=True)
class FourBitCodes:
    """A quantized weight, taken apart."""

    codes: torch.Tensor
    """(weights,), 0 to 15, in the order of the rows."""
    counts: tuple[int, ...]
    """Weights of each code."""
    levels: tuple[float, ...]
    """The code book of 16 levels, by code."""
    absmax: torch.Tensor
    """(blocks,), fp32: the largest size in each block."""
    scales: torch.Tensor
    """(blocks,), fp32: what the levels are multiplied by; the absmax unless that is quantized."""
    scaled: torch.Tensor
    """(weights,): each weight over its block's absmax; 0 in a block of zeros."""
    held: torch.Tensor
    """(out, in): the weights as dequantized, in the type of the values that were quantized."""
    nested: NestedCodes | None = None
    kernel_error: float | None = None
    """Relative error of the library's dequantization where it is wrong, None where it is right;
    `held` is then computed from the codes."""


def quantize(values: torch.Tensor, quant_type: str, *, double_quant: bool) -> FourBitCodes:
    """Quantizes (out, in) floating values in blocks of 64 with bitsandbytes; takes them apart."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(
        values, blocksize=BLOCK, quant_type=quant_type, compress_statistics=double_quant
    )
    count = values.numel()
    codes = _unpack(packed)[:count]
    nested = _nested(state) if double_quant else None
    scales = state.absmax if nested is None else _decode(nested, state.state2.blocksize)
    naive = (state.code[codes.int()] * _spread(scales, count)).reshape(values.shape)
    held = dequantize_4bit(packed, state)
    error = relative_error(held, naive)
    wrong = error > max(_KERNEL_TOLERANCE, torch.finfo(values.dtype).eps)
    absmax = _block_maxima(values.float())
    return FourBitCodes(
        codes=codes,
        counts=tuple(codes.bincount(minlength=16).tolist()),
        levels=tuple(state.code.tolist()),
        absmax=absmax,
        scales=scales,
        scaled=values.float().reshape(-1) / _spread(absmax.clamp(min=1e-38), count),
        held=naive.to(values.dtype) if wrong else held,
        nested=nested,
        kernel_error=error if wrong else None,
    )


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The first of the two codes in a byte is its upper half."""
    import torch

    flat = packed.reshape(-1)
    return torch.stack([flat >> 4, flat & 0xF], dim=1).reshape(-1)


def _nested(state: Any) -> NestedCodes:
    inner = state.state2
    return NestedCodes(
        codes=state.absmax,
        levels=tuple(inner.code.tolist()),
        absmax=inner.absmax,
        offset=float(state.offset),
    )


def _decode(nested: NestedCodes, group: int) -> torch.Tensor:
    book = nested.absmax.new_tensor(nested.levels)
    own = nested.absmax.repeat_interleave(group)[: nested.codes.numel()]
    return book[nested.codes.long()] * own + nested.offset


def _spread(by_block: torch.Tensor, count: int) -> torch.Tensor:
    """The value of its block for each of `count` weights; the last block may be shorter."""
    return by_block.repeat_interleave(BLOCK)[:count]


def _block_maxima(values: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import pad

    flat = values.abs().reshape(-1)
    return pad(flat, (0, -flat.numel() % BLOCK)).reshape(-1, BLOCK).max(dim=1).values
