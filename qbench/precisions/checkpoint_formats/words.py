"""Codes that are packed into words of 32 bits, as compressed-tensors, GPTQ and AWQ have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.checkpoint_formats.layer_definition import (
    Definition,
    MalformedError,
    matrix,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from qbench.precisions.checkpoint_formats.files import ModuleFiles

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column of eight each of the eight codes of an AWQ word is of, low bits first."""
WORD_BITS = 32


def unpacked(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes of `bits` bits in each row of int32 words, low bits first."""
    import torch

    single = words.unsqueeze(-1) >> torch.arange(WORD_BITS, dtype=torch.int32) & 1
    spelled = single.reshape(len(words), -1)[:, : count * bits].reshape(len(words), count, bits)
    return (spelled << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def pack_quantized(held: ModuleFiles) -> Definition:
    """Codes packed along the inputs, zero points along the outputs."""
    outputs, words = matrix(held, "weight_packed")
    inputs = int(held.read("weight_shape")[1])
    bits = words * WORD_BITS // inputs if inputs else 0
    if not 1 <= bits <= 8 or words != -(-inputs * bits // WORD_BITS):
        raise MalformedError(f"{words} words for {inputs} weights of a row")
    shape, middle = (outputs, inputs), 1 << (bits - 1)
    constants = held.read("weight_scale").float()
    zeros = None
    if "weight_zero_point" in held:
        packed = held.read("weight_zero_point")
        zeros = (unpacked(packed.T.contiguous(), bits, outputs) - middle).T.float()
    order = held.read("weight_g_idx").long() if "weight_g_idx" in held else None
    if order is None:
        spread(constants, slice(0, 1), shape, None)

    def rows(part: slice) -> torch.Tensor:
        values = (unpacked(held.read("weight_packed", part), bits, inputs) - middle).float()
        if order is not None:
            below = 0.0 if zeros is None else zeros[part][:, order]
            return (values - below) * constants[part][:, order]
        if zeros is not None:
            values = values - spread(zeros, part, shape, None)
        return values * spread(constants, part, shape, None)

    return Definition(shape, rows)


def gptq_or_awq(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    """GPTQ's words lie along the inputs, AWQ's along the outputs."""
    bits = int(quantization.get("bits") or 4)
    packing = str(quantization.get("packing_format") or quantization.get("quant_method"))
    groups, outputs = matrix(held, "scales")
    if held.tensors["qweight"].dtype != "I32" or "qzeros" not in held:
        return None
    if "awq" in packing:
        return _awq(held, bits) if quantization.get("version", "gemm") == "gemm" else None
    inputs = held.shape("qweight")[0] * WORD_BITS // bits
    shape = outputs, inputs
    kind = str(quantization.get("checkpoint_format") or quantization.get("format") or "gptq")
    one = 0 if kind == "gptq_v2" else 1
    if held.shape("qweight")[1] != outputs or held.shape("qzeros") != (
        groups,
        outputs * bits // WORD_BITS,
    ):
        raise MalformedError(
            f"{list(held.shape('qweight'))} words of codes and"
            f" {list(held.shape('qzeros'))} of zero points for {groups}×{outputs} scales"
        )
    constants = held.read("scales").float()
    zeros = (unpacked(held.read("qzeros"), bits, outputs) + one).float()
    order = _groups_of(held, inputs, groups, int(quantization.get("group_size") or 0))

    def rows(part: slice) -> torch.Tensor:
        words = held.read("qweight", slice(None), part).T.contiguous()
        values = unpacked(words, bits, inputs).float()
        return (values - zeros[order][:, part].T) * constants[order][:, part].T

    return Definition(shape, rows)


def _groups_of(held: ModuleFiles, inputs: int, groups: int, size: int) -> torch.Tensor:
    """The group of each input."""
    import torch

    if "g_idx" not in held:
        return torch.arange(inputs) // (size if size > 0 else inputs)
    order = held.read("g_idx").long()
    if order.shape != (inputs,) or int(order.min()) < 0 or int(order.max()) >= groups:
        raise MalformedError(
            f"groups {int(order.min())} to {int(order.max())} of"
            f" {len(order)} inputs for {groups} groups of {inputs}"
        )
    return order


def _awq(held: ModuleFiles, bits: int) -> Definition | None:
    import torch

    if bits != 4:
        return None
    inputs, words = matrix(held, "qweight")
    groups, outputs = matrix(held, "scales")
    each = WORD_BITS // bits
    if words * each != outputs or held.shape("qzeros") != (groups, words) or inputs % groups:
        raise MalformedError(
            f"{inputs}×{words} words of codes and {list(held.shape('qzeros'))} of zero points for"
            f" {groups}×{outputs} scales"
        )
    place = torch.argsort(torch.tensor(AWQ_ORDER))

    def columns(packed: torch.Tensor) -> torch.Tensor:
        codes = unpacked(packed, bits, packed.shape[1] * each)
        return codes.reshape(len(packed), -1, each)[:, :, place].reshape(len(packed), -1).float()

    zeros, constants = columns(held.read("qzeros")), held.read("scales").float()
    order = torch.arange(inputs) // (inputs // groups)

    def rows(part: slice) -> torch.Tensor:
        first, end = part.start // each, -(-part.stop // each)
        values = columns(held.read("qweight", slice(None), slice(first, end)))
        values = values[:, part.start - first * each :][:, : part.stop - part.start]
        return ((values - zeros[order][:, part]) * constants[order][:, part]).T.contiguous()

    return Definition((outputs, inputs), rows)
