"""Integer codes as checkpoints hold them: which libraries have a form for which options."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.config import torchao_config
from qbench.precisions.integer.options import STORED_BITS
from qbench.precisions.integer.packed import codes_and_constants, is_packed
from qbench.precisions.writing.compressed import compressed_form
from qbench.precisions.writing.library import torchao_form

if TYPE_CHECKING:
    import torch

    from qbench.precisions.integer.options import IntegerOptions
    from qbench.precisions.writing.form import CheckpointForm

_ZERO_POINTS = "zero points of a whole tensor are in no format that compressed-tensors packs"
_FACTORS = (
    "{} keeps a factor for each input beside the codes, which neither torchao's nor"
    " compressed-tensors' checkpoints have with such codes; other programs fold it into the layer"
    " before, which rounds that layer again"
)
_OF_KERNEL = 0.03
_KERNEL = "the packed kernel sums products in another order than a plain layer"
_SIMULATED_INPUTS = (
    "inputs are rounded with zero points and multiplied in floating point, and no checkpoint of"
    " compressed-tensors' says that"
)


def integer_forms(options: IntegerOptions) -> tuple[CheckpointForm, ...]:
    """Packed codes where inputs are left alone; torchao's own tensors where it reads them."""
    every = (_compressed(options), _torchao(options))
    found = tuple(one for one in every if one is not None)
    # Of rounded inputs torchao multiplies the very integers that were measured.
    return found if options.activations == "none" else found[::-1]


def why_unwritable(options: IntegerOptions) -> str:
    """Why there is no form."""
    if options.weights == "awq":
        return _FACTORS.format(options.weights.upper())
    return _ZERO_POINTS if options.activations == "none" else _SIMULATED_INPUTS


def _torchao(options: IntegerOptions) -> CheckpointForm | None:
    """None for what transformers does not read of torchao's tensors.

    Those are factors of narrow codes, and scales of inputs that a calibration found.
    """
    unread = options.weights == "awq" or options.activations == "static"
    own = options.granularity == "tensor" and not options.uses_int8_kernel
    return None if unread or own else torchao_form(partial(torchao_config, options))


def _compressed(options: IntegerOptions) -> CheckpointForm | None:
    if options.weights in ("awq", "smoothquant"):
        return None
    is_symmetric = options.mapping == "symmetric"
    if options.granularity == "tensor" and not is_symmetric:
        return None
    weights: dict[str, Any] = {
        "num_bits": options.bits,
        "type": "int",
        "symmetric": is_symmetric,
        "strategy": options.granularity,
        "group_size": options.group,
    }
    if options.activations == "none":
        is_packed_here = options.kernel == "packed"
        return compressed_form(
            "pack-quantized",
            weights,
            partial(_packed, options),
            tolerance=_OF_KERNEL if is_packed_here else 0.0,
            inexact=_KERNEL if is_packed_here else None,
        )
    if not options.uses_int8_kernel:
        return None
    inputs = {
        "num_bits": STORED_BITS,
        "type": "int",
        "symmetric": True,
        "strategy": "token" if options.activations == "dynamic" else "tensor",
        "dynamic": options.activations == "dynamic",
    }
    return compressed_form("int-quantized", weights, _codes, inputs=inputs)


def _packed(options: IntegerOptions, layer: Any) -> dict[str, torch.Tensor]:
    """Codes in words of 32 bits, and zero points where they are not all 0."""
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes, scale, zero = _parts(layer)
    made = {
        "weight_packed": pack_to_int32(codes, options.bits),
        "weight_scale": scale.reshape(1) if options.granularity == "tensor" else scale,
        "weight_shape": torch.tensor(codes.shape),
    }
    if options.mapping == "asymmetric":
        made["weight_zero_point"] = pack_to_int32(zero, options.bits, packed_dim=0)
    return made


def _parts(layer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (out, in), scales and zero points (out, groups), or one of each."""
    import torch

    held = layer.weight
    if is_packed(held):
        codes, scale, zero = codes_and_constants(layer)
        return codes, scale, (-zero.float() / scale.float()).round().to(torch.int8)
    shape = (-1, 1) if held.scale.numel() == 1 else (layer.out_features, -1)
    return held.qdata, held.scale.reshape(shape), held.zero_point.reshape(shape).to(torch.int8)


def _codes(layer: Any) -> dict[str, torch.Tensor]:
    """8-bit codes as they are, a scale a row or one, and the inputs' scale where there is one."""
    held = layer.weight
    one = held.scale.numel() == 1
    made = {"weight": held.qdata, "weight_scale": held.scale.reshape(1 if one else (-1, 1))}
    if held.act_quant_scale is not None:
        made["input_scale"] = held.act_quant_scale.reshape(1)
    return made
