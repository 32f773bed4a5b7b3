"""Packed 4-bit codes on CUDA: torchao's `Int4TilePackedTo4dTensor`, which tinygemm's kernel reads.

The format's own codes, scales and zero points are put into it, so that a weight is the same as in
the simulated form: w = (q - 8)·scale + zero with q = code + 8 and zero = -zero point · scale, scale
and zero in bf16. Two codes share a byte, in the order in which the tensor cores take them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.number_types import BF16

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qbench.precisions.integer.options import IntegerOptions

GROUPS = (32, 64, 128, 256)
"""Weights that share a scale, of which the kernel knows how to find it."""
_MIDDLE = 8
"""Of the codes that are held, 0 to 15: their level is 0."""
_INPUTS_AT_ONCE, _OUTPUTS_AT_ONCE = 1024, 8
"""What a layer's widths are padded to multiples of."""
_INNER_TILES, _TILE, _LANES = 8, 16, 32
"""Tiles of 16 inputs that lie together, and what shares them."""
_CONSTANT_BYTES = 4
"""Of a scale and a zero in bf16."""


def why_simulated(options: IntegerOptions) -> str | None:
    """Why no packed kernel takes the format on any device; None if one does."""
    if options.kernel == "simulated":
        return "kernel: simulated was asked for"
    if options.bits != 4 or options.group not in GROUPS:
        groups = ", ".join(map(str, GROUPS))
        return f"the packed kernel takes 4 bits in groups of {groups} alone"
    if options.activations != "none":
        return "the packed kernel takes inputs as they are alone"
    if options.weights in ("awq", "smoothquant"):
        return f"the packed kernel is not taken with {options.weights}, whose inputs are scaled"
    if options.dtype != BF16:
        return f"the packed kernel multiplies bf16 alone, and dtype is {options.dtype}"
    return None


def packed_storage(out_features: int, in_features: int, group: int) -> tuple[int, int]:
    """Bytes of the codes and of scales and zeros of one layer, padded as they are held."""
    outputs, inputs = _padded(out_features, in_features)
    return outputs * inputs // 2, outputs * (inputs // group) * _CONSTANT_BYTES


def padded_inputs(in_features: int) -> int:
    """Columns of the inputs that the kernel reads."""
    return _padded(1, in_features)[1]


def is_packed(weight: Any) -> bool:
    """Whether the weight of a layer is such a tensor."""
    return hasattr(weight, "scale_and_zero")


def pack_layer(layer: nn.Linear) -> None:
    """Puts unpacked codes of 4 bits, on CUDA, into packed ones."""
    import torch
    from torchao.quantization import Int4TilePackedTo4dTensor

    held: Any = layer.weight
    outputs, inputs = held.qdata.shape
    padded_outputs, padded = _padded(outputs, inputs)
    below, beside = padded_outputs - outputs, padded - inputs
    group = held.block_size[1]
    codes = torch.nn.functional.pad(held.qdata + _MIDDLE, (0, beside, 0, below), value=_MIDDLE)
    codes = codes.to(torch.uint8)
    pairs = ((codes[:, ::2] << 4) | codes[:, 1::2]).contiguous()
    constants = torch.stack([held.scale, -held.zero_point.to(held.scale.dtype) * held.scale], -1)
    constants = torch.nn.functional.pad(constants, (0, 0, 0, beside // group, 0, below))
    packed = Int4TilePackedTo4dTensor(
        torch.ops.aten._convert_weight_to_int4pack(pairs, _INNER_TILES),  # noqa: SLF001 - torchao's own way to make it
        constants.transpose(0, 1).contiguous(),
        [1, group],
        held.shape,
    )
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)


def codes_and_constants(layer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (out, in) from -8 to 7 as int8, scales and zeros (out, groups) of a packed layer."""
    import torch

    weight = layer.weight
    codes = unpacked(weight.qdata)[: layer.out_features, : layer.in_features]
    groups = layer.in_features // weight.block_size[1]
    constants = weight.scale_and_zero.transpose(0, 1)[: layer.out_features, :groups]
    return codes.to(torch.int8) - _MIDDLE, constants[..., 0], constants[..., 1]


def naive_packed_weight(layer: Any, rows: slice = slice(None)) -> torch.Tensor:
    """(q - 8)·scale + zero from the bits that are held, (rows, in) in fp32: the definition."""
    codes, *constants = codes_and_constants(layer)
    group = layer.weight.block_size[1]
    scale, zero = (one[rows].float().repeat_interleave(group, dim=1) for one in constants)
    found: torch.Tensor = codes[rows].float() * scale + zero
    return found


def library_packed_weight(layer: Any, rows: slice | None = None) -> torch.Tensor:
    """What the kernel multiplies with, (rows, in): its products with a one in each column."""
    import torch

    inputs = layer.in_features
    parts = []
    for start in range(0, inputs, _INPUTS_AT_ONCE):
        size = min(_INPUTS_AT_ONCE, inputs - start), inputs
        ones = torch.zeros(size, dtype=torch.bfloat16, device=layer.weight.device)
        ones.diagonal(start).fill_(1.0)
        made = torch.nn.functional.linear(ones, layer.weight)
        parts.append(made if rows is None else made[:, rows])
    return torch.cat(parts).T


def unpacked(held: torch.Tensor) -> torch.Tensor:
    """The codes, 0 to 15, (out, in) padded, from (out / 8, in / 128, 32, 4) words of 32 bits.

    Lane t of a tile has row t // 4. A word holds its columns of two tiles of 16: of each, two
    neighbours from 2·(t % 4), and two from 8 further. The even ones lie in the lower half, four
    bits each, the odd ones in the upper half.
    """
    import torch

    row_tiles, column_tiles, _, words = held.shape
    device = held.device
    lane, word, place = (
        torch.arange(count, device=device).reshape(shape)
        for count, shape in ((_LANES, (-1, 1, 1)), (words, (1, -1, 1)), (8, (1, 1, -1)))
    )
    upper, quarter = place // 4, place % 4
    column = (2 * word + quarter // 2) * _TILE + (quarter % 2) * 8 + 2 * (lane % 4) + upper
    row = (lane // 4).expand_as(column)
    codes = (held.unsqueeze(-1) >> (4 * place)) & 15
    found = torch.zeros(
        row_tiles, column_tiles, 8, _INNER_TILES * _TILE, dtype=torch.uint8, device=device
    )
    found[:, :, row, column] = codes.to(torch.uint8)
    return found.transpose(1, 2).reshape(row_tiles * 8, -1)


def _padded(out_features: int, in_features: int) -> tuple[int, int]:
    return (
        -(-out_features // _OUTPUTS_AT_ONCE) * _OUTPUTS_AT_ONCE,
        -(-in_features // _INPUTS_AT_ONCE) * _INPUTS_AT_ONCE,
    )
