"""GPTQ: codes chosen column by column, each making up for the errors of those before it.

Frantar et al. 2023, arXiv 2210.17323, algorithm 1. torchao 0.18 has it for CUDA alone, and for
other tensors than its unpacked codes; here it fills those, with torchao's own scales, on any
device. The blocks are taken in order, each with the inputs that the quantized ones before it give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.grid import (
    choose_scales,
    library_nearest,
    output_error,
    unpacked_codes,
)
from qbench.precisions.integer.moments import Moments
from qbench.precisions.integer.walk import Walk

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
    for block in Walk(model, layers, windows).blocks():
        seen = Moments()
        block.run(seen.add)
        for name, layer in block.layers.items():
            hessian = seen.of(name).products
            weight = layer.weight.data.float()
            nearest = library_nearest(weight, options, dtype)
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
    return unpacked_codes(codes, scales, zeros, options, dtype)


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
