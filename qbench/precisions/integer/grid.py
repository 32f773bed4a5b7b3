"""Scales, zero points and codes of a weight's groups, for what chooses codes in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qbench.precisions.integer.options import IntegerOptions


def choose_scales(
    weight: torch.Tensor, options: IntegerOptions, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales of torchao, in the type that keeps them, and zero points; (out, groups) each."""
    import torch
    from torchao.quantization import MappingType
    from torchao.quantization.quant_primitives import choose_qparams_affine

    scale, zero = choose_qparams_affine(
        weight.contiguous(),
        MappingType[options.mapping.upper()],
        (1, options.group or weight.shape[1]),
        target_dtype=torch.int8,
        quant_min=-(2 ** (options.bits - 1)),
        quant_max=2 ** (options.bits - 1) - 1,
        zero_point_dtype=torch.int8,
        keepdim=True,
    )
    scale = scale.to(dtype).float()  # the codes are chosen for the scale that is kept
    scale[scale == 0] = 1  # too small for fp16, as of weights that are all 0
    return scale, zero


def round_to_nearest(
    weight: torch.Tensor, options: IntegerOptions, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of the nearest levels, (out, in) in fp32, with `choose_scales` of the weight."""
    scale, zero = choose_scales(weight, options, dtype)
    group = options.group or weight.shape[1]
    steps = (by_group(weight, group) / scale[..., None]).round() + zero[..., None]
    codes = steps.clamp(-(2 ** (options.bits - 1)), 2 ** (options.bits - 1) - 1)
    return codes.reshape(weight.shape), scale, zero


def to_weight(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """What the codes stand for, (out, in) in fp32."""
    shared = codes.shape[1] // scale.shape[1]
    held = (by_group(codes, shared) - zero[..., None]) * scale[..., None]
    return held.reshape(codes.shape)


def by_group(weight: torch.Tensor, group: int) -> torch.Tensor:
    """(out, in) as (out, groups, weights of a group)."""
    return weight.reshape(weight.shape[0], -1, group)


def output_error(weight: torch.Tensor, held: torch.Tensor, hessian: torch.Tensor) -> float:
    """Norm of X(W - Ŵ)ᵀ over that of XWᵀ, from the sum of x·xᵀ; 0 where the outputs are."""
    difference = weight - held
    noise = float(((difference @ hessian) * difference).sum())
    signal = float(((weight @ hessian) * weight).sum())
    return (max(noise, 0.0) / signal) ** 0.5 if signal > 0 else 0.0


def unpacked_codes(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    options: IntegerOptions,
    dtype: torch.dtype,
) -> Any:
    """The tensor of torchao with codes, (out, in), and scales and zero points, (out, groups)."""
    import torch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    return IntxUnpackedToInt8Tensor(
        qdata=codes.to(torch.int8),
        scale=scale.to(dtype),
        zero_point=zero.to(torch.int8),
        target_dtype=getattr(torch, f"int{options.bits}"),
        block_size=(1, codes.shape[1] // scale.shape[1]),
        dtype=dtype,
        activation_quantization="int8_asym_per_token" if options.activations == "dynamic" else None,
    )


def library_nearest(
    weight: torch.Tensor, options: IntegerOptions, dtype: torch.dtype
) -> torch.Tensor:
    """A weight at its nearest levels as torchao makes them, dequantized."""
    import torch

    from qbench.precisions.integer.layers import library_codes_weight, quantize_layer

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_layer(layer, options, dtype)
    return library_codes_weight(layer).float()
