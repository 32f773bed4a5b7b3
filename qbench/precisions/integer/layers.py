"""Linear layers that hold integer codes: how they are made, and what they say by definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.config import torchao_config
from qbench.precisions.integer.options import group_fits
from qbench.precisions.integer.packed import (
    is_packed,
    library_packed_weight,
    naive_packed_weight,
)
from qbench.precisions.plain_layers import plain_linear_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.integer.options import IntegerOptions

ACTIVATION_STEPS = 127.5
"""Half of the 255 steps from -128 to 127: scale = limit / 127.5, torchao's 2·absmax/(qmax-qmin)."""


def layers_to_quantize(model: PreTrainedModel, options: IntegerOptions) -> dict[str, Any]:
    """Every plain linear layer but the head whose width the group divides, by name."""
    return {
        name: module
        for name, module in plain_linear_layers(model).items()
        if group_fits(options, module.in_features)
    }


def quantize_layer(layer: Any, options: IntegerOptions, dtype: torch.dtype) -> None:
    """Replaces the layer's weight by codes; scales and codes are computed in fp32.

    In a 16-bit type torchao would compute them in that type, and put 8-bit codes off by one.
    """
    import torch
    from torchao.quantization import quantize_

    layer.weight = torch.nn.Parameter(layer.weight.data.float(), requires_grad=False)
    quantize_(layer, torchao_config(options))
    hold_in(layer, dtype)


def hold_in(layer: Any, dtype: torch.dtype) -> None:
    """Has the codes dequantized to a type, in which unpacked codes keep their scales, too.

    The int8 kernels' scales stay fp32.
    """
    import torch
    from torchao.quantization import Int8Tensor

    codes = layer.weight.data
    if isinstance(codes, Int8Tensor):
        names = (*codes.optional_tensor_data_names, *codes.optional_tensor_attribute_names)
        held: Any = Int8Tensor(
            codes.qdata,
            codes.scale,
            codes.block_size,
            dtype,
            **{name: getattr(codes, name) for name in names},
        )
    else:
        held = codes.to(dtype)
    layer.weight = torch.nn.Parameter(held, requires_grad=False)


def is_quantized(layer: Any) -> bool:
    """Whether the layer's weight is one of torchao's tensors of codes."""
    return hasattr(layer.weight, "qdata")


def naive_codes_weight(layer: Any, rows: slice = slice(None)) -> torch.Tensor:
    """(code - zero point) · scale, group by group: the definition, (rows, in) in fp32."""
    weight = layer.weight
    if is_packed(weight):
        return naive_packed_weight(layer, rows)
    codes: torch.Tensor = weight.qdata[rows].float()
    if weight.zero_point is not None:
        codes = codes - _spread(weight.zero_point, rows, codes.shape)
    return codes * _spread(weight.scale, rows, codes.shape)


def library_codes_weight(layer: Any, rows: slice | None = None) -> torch.Tensor:
    """The same as torchao dequantizes it, whose tensors cannot be sliced in inference mode."""
    if is_packed(layer.weight):
        return library_packed_weight(layer, rows)
    held = layer.weight if rows is None else layer.weight[rows]
    weight: torch.Tensor = held.dequantize()
    return weight


def effective_weight(layer: Any) -> torch.Tensor:
    """What the layer multiplies its inputs with, (out, in): SmoothQuant's factors taken back."""
    weight = library_codes_weight(layer).float()
    factors = getattr(layer.weight, "act_pre_scale", None)
    return weight if factors is None else weight * factors.float()


def naive_output(layer: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The product that the format defines: inputs, (rows, in), rounded to 8 bits where it says so.

    `weight` is the dequantized one, (out, in). Without the bias, in fp32.
    """
    held = layer.weight
    factors = getattr(held, "act_pre_scale", None)
    if factors is not None:
        inputs = inputs * factors
    values = inputs.float()
    if getattr(held, "act_quant_kwargs", None) is not None:
        if held.act_quant_scale is not None:
            scale = held.act_quant_scale.float().reshape(1, 1)
        else:
            scale = values.abs().amax(dim=1, keepdim=True) / ACTIVATION_STEPS
        values = (values / scale).round().clamp(-128, 127) * scale
    elif getattr(held, "activation_quantization", None) is not None:
        low = values.amin(dim=1, keepdim=True).clamp(max=0)
        high = values.amax(dim=1, keepdim=True).clamp(min=0)
        scale = (high - low) / 255
        zero = (-128 - (low / scale).round()).clamp(-128, 127)
        values = ((values / scale).round() + zero).clamp(-128, 127).sub(zero) * scale
    return values @ weight.T


def library_output(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The layer's own output for inputs (rows, in), shaped as its calibrated scale expects."""
    scale = getattr(layer.weight, "act_quant_scale", None)
    if scale is None:
        output: torch.Tensor = layer(inputs)
        return output
    wanted = (1,) * (scale.ndim - inputs.ndim) + tuple(inputs.shape)
    shaped: torch.Tensor = layer(inputs.reshape(wanted))
    return shaped.reshape(len(inputs), -1)


def _spread(values: torch.Tensor, rows: slice, shape: torch.Size) -> torch.Tensor:
    """One constant a group repeated for each weight of its group, of some rows, to their shape."""
    whole = values.float()
    if len(whole) > 1:  # else one for all rows
        whole = whole[rows]
    whole = whole.repeat_interleave(shape[0] // whole.shape[0], dim=0)
    return whole.repeat_interleave(shape[1] // whole.shape[1], dim=1)
