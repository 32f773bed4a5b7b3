"""GPTQ: codes chosen column by column, each making up for the errors of those before it.

Frantar et al. 2023, arXiv 2210.17323, algorithm 1. torchao 0.18 has it for CUDA alone, and for
other tensors than its unpacked codes; here it fills those, with torchao's own scales, on any
device. The blocks are taken in order, each with the inputs that the quantized ones before it give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.inputs import in_blocks, run, unreached

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.integer.options import IntegerOptions

_COLUMNS_AT_ONCE = 128
"""Columns between two updates of all the rest; it changes the speed, not the codes."""


def quantize_by_gptq(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    options: IntegerOptions,
    dtype: torch.dtype,
) -> dict[str, dict[str, float]]:
    """Quantizes the layers in place; by layer the error of its outputs, relative by norm.

    The error is that on the calibration's inputs, beside that of nearest levels. Raises
    `ModelError` for a layer that no window reaches.
    """
    import torch

    found: dict[str, dict[str, float]] = {}
    for block in in_blocks(layers):
        hessians: dict[str, torch.Tensor] = {}

        def add(
            name: str, inputs: torch.Tensor, hessians: dict[str, torch.Tensor] = hessians
        ) -> None:
            rows = inputs.reshape(-1, inputs.shape[-1]).float()
            hessians[name] = hessians.get(name, 0) + rows.T @ rows

        run(model, block, windows, add)
        for name, layer in block.items():
            if name not in hessians:
                raise unreached(name)
            hessian = hessians.pop(name)
            weight = layer.weight.data.float()
            nearest = _nearest(weight, options, dtype)
            codes = gptq_codes(weight, hessian, options, dtype)
            found[name] = {
                "output_error": output_error(weight, codes.dequantize().float(), hessian),
                "output_error_nearest": output_error(weight, nearest, hessian),
            }
            layer.weight = torch.nn.Parameter(codes, requires_grad=False)
    return found


def gptq_codes(
    weight: torch.Tensor, hessian: torch.Tensor, options: IntegerOptions, dtype: torch.dtype
) -> Any:
    """Codes for a weight, (out, in) in fp32, given the sum of x·xᵀ, (in, in), of its inputs."""
    import torch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    left = weight.clone()
    rows, columns = left.shape
    group = options.group or columns
    low, high = -(2 ** (options.bits - 1)), 2 ** (options.bits - 1) - 1
    dead = hessian.diagonal() == 0
    left[:, dead] = 0
    order = None
    if options.act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
        scales, zeros = choose_scales(left, options, dtype)
        of_column = order // group
        left, hessian, dead = left[:, order], hessian[order][:, order], dead[order]
    root = _inverse_root(hessian, dead, options.damping)
    codes = torch.empty_like(left, dtype=torch.int8)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = _COLUMNS_AT_ONCE
    if options.group is not None:
        # Whole groups: a group's scale is chosen when all its columns have met the errors before.
        step = group * max(1, _COLUMNS_AT_ONCE // group)
    for start in range(0, columns, step):
        end = min(start + step, columns)
        errors = torch.zeros(rows, end - start, device=left.device)
        for column in range(start, end):
            if order is not None:
                own = slice(int(of_column[column]), int(of_column[column]) + 1)
                scale, zero = scales[:, own], zeros[:, own]
            elif column % group == 0:
                scale, zero = choose_scales(left[:, column : column + group], options, dtype)
                found.append((scale, zero))
            value = left[:, column : column + 1]
            code = ((value / scale).round() + zero).clamp(low, high)
            codes[:, column : column + 1] = code.to(torch.int8)
            error = (value - (code - zero) * scale) / root[column, column]
            left[:, column:end] -= error * root[column, column:end]
            errors[:, column - start] = error[:, 0]
        left[:, end:] -= errors @ root[start:end, end:]
    if order is None:
        scales, zeros = (torch.cat(one, dim=1) for one in zip(*found, strict=True))
    else:
        codes = codes[:, order.argsort()].contiguous()
    return IntxUnpackedToInt8Tensor(
        qdata=codes,
        scale=scales.to(dtype),
        zero_point=zeros,
        target_dtype=getattr(torch, f"int{options.bits}"),
        block_size=(1, group),
        dtype=dtype,
        activation_quantization="int8_asym_per_token" if options.activations == "dynamic" else None,
    )


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


def output_error(weight: torch.Tensor, held: torch.Tensor, hessian: torch.Tensor) -> float:
    """Norm of X(W - Ŵ)ᵀ over that of XWᵀ, from the sum of x·xᵀ; 0 where the outputs are."""
    difference = weight - held
    noise = float(((difference @ hessian) * difference).sum())
    signal = float(((weight @ hessian) * weight).sum())
    return (max(noise, 0.0) / signal) ** 0.5 if signal > 0 else 0.0


def _inverse_root(hessian: torch.Tensor, dead: torch.Tensor, damping: float) -> torch.Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse; `dead` columns see only 0."""
    import torch

    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    root: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return root


def _nearest(weight: torch.Tensor, options: IntegerOptions, dtype: torch.dtype) -> torch.Tensor:
    """The same weight at its nearest levels, dequantized."""
    import torch

    from qbench.precisions.integer.layers import library_codes_weight, quantize_layer

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_layer(layer, options, dtype)
    return library_codes_weight(layer).float()
