"""A weight as torchao holds it in integers: codes, scales and zero points, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.core.number_types import torch_type
from qbench.precisions.explain.weights import rounded
from qbench.precisions.integer.layers import library_codes_weight, quantize_layer
from qbench.precisions.integer.options import group_fits

if TYPE_CHECKING:
    import torch

    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.integer.options import IntegerOptions


@dataclass(frozen=True)
class IntegerCodes:
    """A quantized weight, taken apart."""

    loaded: torch.Tensor
    """(out, in), fp32: the weights in the type they are loaded in, before they are quantized."""
    codes: torch.Tensor
    """(out, in), int8 whatever the code's width."""
    scales: torch.Tensor
    """(rows of groups, groups a row), fp32 values of the type they are held in."""
    zero_points: torch.Tensor
    """The shape of `scales`: the code that stands for 0."""
    held: torch.Tensor
    """(out, in): the weights as dequantized by torchao."""
    scale_bytes: int
    """Of one scale as it is held."""

    @property
    def group_weights(self) -> int:
        """Weights that share a scale."""
        return self.codes.numel() // self.scales.numel()

    def spread(self, by_group: torch.Tensor) -> torch.Tensor:
        """The constant of its group for each weight, (out, in)."""
        tall, wide = self._group_shape()
        return by_group.repeat_interleave(tall, dim=0).repeat_interleave(wide, dim=1)

    def group_of(self, row: int, column: int) -> tuple[int, int]:
        """Which group a weight is in, as an index of `scales`."""
        tall, wide = self._group_shape()
        return row // tall, column // wide

    def group_values(self, group: tuple[int, int]) -> torch.Tensor:
        """The weights of a group, as loaded."""
        tall, wide = self._group_shape()
        rows, columns = group[0] * tall, group[1] * wide
        return self.loaded[rows : rows + tall, columns : columns + wide]

    def _group_shape(self) -> tuple[int, int]:
        rows, columns = self.codes.shape
        return rows // self.scales.shape[0], columns // self.scales.shape[1]


def quantize(weight: Weight, options: IntegerOptions) -> IntegerCodes:
    """Quantizes a weight to nearest codes with torchao, as a linear layer of it would be.

    Raises `UsageError` where the group does not divide its width.
    """
    import torch

    out_features, in_features = weight.values.shape
    if not group_fits(options, in_features):
        raise UsageError(
            f"--tensor: {weight.name} of {weight.model} is {in_features} wide, which group"
            f" {options.group} does not divide: such a layer stays in {options.dtype}; set a group"
            f" that divides {in_features} (`qbench explain integer --set granularity=group --set"
            " group=…`), or choose another tensor"
        )
    loaded = rounded(weight, options.dtype, "which it is loaded in (option `dtype`)")
    layer: Any = torch.nn.Linear(in_features, out_features, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(loaded, requires_grad=False)
    quantize_layer(layer, options, torch_type(options.dtype))
    held = layer.weight
    scales = held.scale
    zero_points = torch.zeros_like(scales) if held.zero_point is None else held.zero_point
    return IntegerCodes(
        loaded=loaded.float(),
        codes=held.qdata,
        scales=scales.float(),
        zero_points=zero_points,
        held=library_codes_weight(layer),
        scale_bytes=scales.element_size(),
    )
