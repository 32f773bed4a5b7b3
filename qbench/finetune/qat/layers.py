"""Linear layers that compute with rounded weights, as torchao's QAT has them.

A layer is torchao's `FakeQuantizedLinear`; what rounds in it is the `Grid` below. torchao 0.18's
own is the same bit for bit where it is right (symmetric weights, asymmetric inputs), but of an
asymmetric weight it takes the zero point of another format (tinygemm's, a floating one) and rounds
that to an integer, so that what it trains for is not what its conversion makes; and it has neither
one scale for a whole weight nor the symmetric inputs of the int8 kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.core.number_types import torch_type
from qbench.precisions.integer.layers import layers_to_quantize
from qbench.precisions.loading import load_pretrained
from qbench.precisions.plain_layers import replace_conv1d

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.precisions.integer.options import Granularity, IntegerOptions, Mapping

_ACTIVATION_BITS = 8


@dataclass(frozen=True)
class Grid:
    """Rounds a tensor to an integer format's levels; the gradient passes as if nothing was done.

    Scales are found anew at each call, from the smallest and largest value of each block, so that
    no value lies beyond the last level by more than half a step. What does is clipped, and gets no
    gradient from that pass: of a symmetric format a block's largest value where it is positive,
    since the levels end half a step below it (at 7 of 7.5 in 4 bits); of an asymmetric one nothing.
    """

    bits: int
    mapping: Mapping
    granularity: Granularity
    """`channel`: the last dimension shares a scale; of inputs that is a token."""
    group: int | None = None
    dtype: str | None = None
    """Type of what is served: values are rounded to it first, as they are before conversion."""
    holds_scales: bool = False
    """Whether scales are held in `dtype`, too: codes are chosen with those in fp32, and stand for
    levels of these."""
    is_computed_in_dtype: bool = False
    """Whether scales and codes are computed in `dtype`, too, as torchao computes those of inputs to
    weights that it dequantizes; else in fp32."""
    smallest_scale: float | None = None
    """Of torchao's int8 kernels; None for the smallest normal number of fp32."""
    config: None = None
    """Where torchao's conversion looks for learned ranges; there are none."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """The rounded values, in the type of the given ones."""
        import torch
        from torchao.quantization.quant_primitives import (
            MappingType,
            ZeroPointDomain,
            _do_fake_quantize_affine,
            choose_qparams_affine,
            dequantize_affine,
        )

        own = values.dtype
        held = torch.float32 if self.dtype is None else torch_type(self.dtype)
        values = values.to(held)
        if not self.is_computed_in_dtype:
            values = values.float()
        block = self._block(tuple(values.shape))
        low, high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        scale, zero_point = choose_qparams_affine(
            values,
            MappingType[self.mapping.upper()],
            block,
            target_dtype=torch.int8,
            quant_min=low,
            quant_max=high,
            eps=self.smallest_scale,
            zero_point_dtype=torch.int32,
        )
        codes, rounded = _do_fake_quantize_affine(
            values, block, scale, zero_point, torch.int32, low, high, ZeroPointDomain.INT
        )
        if self.holds_scales and held != torch.float32:
            levels = dequantize_affine(
                codes.detach().to(torch.int8),
                block,
                scale.detach().to(held),
                zero_point,
                torch.int8,
                low,
                high,
                output_dtype=held,
            )
            rounded = rounded + (levels.float() - rounded).detach()
        found: torch.Tensor = rounded.to(own)
        return found

    def _block(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The part of a tensor that shares a scale."""
        if self.granularity == "tensor":
            return shape
        return (*(1 for _ in shape[1:]), self.group or shape[-1])


def weight_grid(options: IntegerOptions) -> Grid:
    """What rounds the weights of a format."""
    return Grid(
        options.bits,
        options.mapping,
        options.granularity,
        options.group,
        options.dtype,
        holds_scales=not options.uses_int8_kernel,
        smallest_scale=_smallest_scale(options),
    )


def input_grid(options: IntegerOptions) -> Grid | None:
    """What rounds a layer's inputs, token by token; None where the format leaves them alone."""
    if options.activations == "none":
        return None
    mapping: Mapping = "symmetric" if options.uses_int8_kernel else "asymmetric"
    return Grid(
        _ACTIVATION_BITS,
        mapping,
        "channel",
        dtype=options.dtype,
        is_computed_in_dtype=not options.uses_int8_kernel,
        smallest_scale=_smallest_scale(options),
    )


def fake_quantize(model: PreTrainedModel, options: IntegerOptions) -> tuple[str, ...]:
    """Puts rounding layers in place of those that the format quantizes; in place.

    The weights stay the same tensors. Returns the layers that hold their weight the other way
    round than the checkpoint does (GPT-2's `Conv1D`). Raises `MeasurementError` where the format
    quantizes no layer of the model.
    """
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    replace_conv1d(model)
    layers = layers_to_quantize(model, options)
    if not layers:
        raise MeasurementError(
            f"no linear layer has a width that group {options.group} divides: there is nothing to"
            " train for; set a group that divides the widths, or granularity: channel"
        )
    turned = tuple(name for name, module in model.named_modules() if hasattr(module, "source_cls"))
    weights, inputs = weight_grid(options), input_grid(options)
    for name, layer in layers.items():
        made: Any = FakeQuantizedLinear.from_linear(layer)
        made.weight_fake_quantizer, made.activation_fake_quantizer = weights, inputs
        made.train(layer.training)
        place, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(place), own_name, made)
    return turned


def load_fake_quantized(checkpoint: Checkpoint, options: IntegerOptions) -> PreTrainedModel:
    """A model trained by QAT as it is before conversion, in the type that it is served in."""
    model = load_pretrained(checkpoint, dtype=options.dtype)
    fake_quantize(model, options)
    model.requires_grad_(requires_grad=False)
    return model


def save_plain(model: PreTrainedModel, turned: tuple[str, ...], folder: Path) -> None:
    """Saves the weights behind the rounding as the checkpoint that they were loaded from."""
    save_state(model, dict(model.state_dict()), turned, folder)


def save_state(
    model: PreTrainedModel, state: dict[str, torch.Tensor], turned: tuple[str, ...], folder: Path
) -> None:
    """Saves weights as a checkpoint of the model; those of `turned` layers the other way round."""
    for name in turned:
        state[f"{name}.weight"] = state[f"{name}.weight"].T.contiguous()
    model.save_pretrained(folder, state_dict=state)


def _smallest_scale(options: IntegerOptions) -> float | None:
    import torch

    return torch.finfo(torch.float32).eps if options.uses_int8_kernel else None
