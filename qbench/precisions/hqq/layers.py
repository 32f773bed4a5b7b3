"""A linear layer that holds HQQ's codes: made and multiplied by the functions of hqq 0.2.8.

`HQQLinear` of hqq has no weight as libraries look for it, and keeps scales where none finds them.
This layer keeps the same packed codes, scales and zero points as a linear layer's own tensors, and
multiplies by hqq's PyTorch back end: all weights of the layer are dequantized for each product, in
the way back again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from qbench.precisions.hqq.options import Bits, HqqOptions
    from qbench.precisions.inventory import Kind

_BYTE, _THREE = 8, 3


@cache
def layer_class() -> type[Any]:
    """The class of the layers, made when the first is: torch and hqq are imported for it."""
    import torch
    from hqq.core.quantize import HQQMatmulNoCacheMul, Quantizer
    from torch import nn

    class HqqLayer(nn.Linear):
        """A linear layer of codes."""

        scale: torch.Tensor
        zero: torch.Tensor

        def __init__(
            self, layer: nn.Linear, options: HqqOptions, bits: Bits, dtype: torch.dtype
        ) -> None:
            """Quantizes the weights of a layer, whose bias it takes on."""
            nn.Module.__init__(self)
            self.in_features, self.out_features = layer.in_features, layer.out_features
            codes, meta = _quantized(layer.weight.data, options, bits)
            self.weight = nn.Parameter(codes, requires_grad=False)
            # Copies: hqq makes some of them in inference mode, where no training can use them.
            self.register_buffer("scale", meta.pop("scale").to(dtype, copy=True))
            self.register_buffer("zero", meta.pop("zero").to(dtype, copy=True))
            self.meta = meta
            self.bias = layer.bias

        def dequantize(self) -> torch.Tensor:
            """Its weights, (out, in), as hqq makes them of the codes."""
            meta = self.meta | {"scale": self.scale, "zero": self.zero}
            meta["compute_dtype"] = self.scale.dtype
            made: torch.Tensor = Quantizer.dequantize(self.weight, meta)
            return made

        def matmul(self, given: torch.Tensor, *, transpose: bool) -> torch.Tensor:
            """A product with the weights: in the way back as they are, in the gradient's type."""
            weight = self.dequantize()
            return torch.matmul(given, weight.t() if transpose else weight.to(given.dtype))

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            """As hqq's PyTorch back end: nothing but the inputs is kept for the way back."""
            made: torch.Tensor = HQQMatmulNoCacheMul.apply(given, self.matmul, self.bias)
            return made

        def held_tensors(self) -> Iterator[tuple[Kind, torch.Tensor, int]]:
            """What it keeps: kind, tensor, and the weights that it stands for."""
            yield "linear", self.weight, self.in_features * self.out_features
            yield "quantization_state", self.scale, 0
            yield "quantization_state", self.zero, 0
            if self.bias is not None:
                yield "biases", self.bias, self.bias.numel()

    return HqqLayer


def quantized_layer(layer: nn.Linear, options: HqqOptions, bits: Bits, dtype: torch.dtype) -> Any:
    """A layer that holds another's weights in codes, its scales and zero points in that type."""
    return layer_class()(layer, options, bits, dtype)


def _quantized(
    weights: torch.Tensor, options: HqqOptions, bits: Bits
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Packed codes of a matrix (out, in), and what hqq says of them, scale and zero included."""
    from hqq.core.quantize import BaseQuantizeConfig, Quantizer

    config = BaseQuantizeConfig(nbits=bits, group_size=options.group, axis=options.axis)
    chosen = config["weight_quant_params"] | {"optimize": options.optimize}
    codes, meta = Quantizer.quantize(weights, device=str(weights.device), **chosen)
    return codes.clone(), meta


def naive_weight(layer: Any, rows: slice) -> torch.Tensor:
    """(code - zero point) · scale, weight by weight: the definition, (rows, in) in fp32.

    The weights, row after row, are folded into a matrix of a group a row (axis 1) or a column
    (axis 0). Of so many words to a column, the code of row i lies in word i modulo that, and the
    first rows' in the highest bits that are used.
    """
    import torch

    bits = layer.meta["nbits"]
    words, columns = layer.weight.shape
    first, end = rows.start * layer.in_features, rows.stop * layer.in_features
    flat = torch.arange(first, end, device=layer.weight.device)
    row, column = flat // columns, flat % columns
    group = row if layer.meta["axis"] == 1 else column
    packed = layer.weight[row % words, column].int()
    of_word = 10 if bits == _THREE else _BYTE // bits
    shift = bits * (of_word - 1 - row // words)
    codes = (packed >> shift) & (2**bits - 1)
    zero, scale = (one.float().reshape(-1)[group] for one in (layer.zero, layer.scale))
    values: torch.Tensor = (codes.float() - zero) * scale
    return values.reshape(-1, layer.in_features)


class LastDequantized:
    """Rows of a layer's weights as hqq makes them: all at once, which are kept meanwhile."""

    def __init__(self) -> None:
        self._layer: Any = None
        self._weights: Any = None

    def rows(self, layer: Any, rows: slice) -> torch.Tensor:
        """The rows that are asked for."""
        if self._layer is not layer:
            self._layer, self._weights = layer, layer.dequantize()
        made: torch.Tensor = self._weights[rows]
        return made
