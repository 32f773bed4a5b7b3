"""A linear layer that holds quanto's codes: made and multiplied by optimum-quanto 0.2.7.

Its layers fail in inference mode, which everything is measured in: they make tensors of classes of
their own at each product. This one keeps codes, scales and shifts as plain tensors, and lets
quanto's be made outside of that mode, without gradients where there were none. The codes are packed
as quanto packs them for any machine, not for one kernel: how many bytes they take is the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.precisions.quanto.format import group_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from qbench.precisions.inventory import Kind
    from qbench.precisions.quanto.format import Codes

_AT_ONCE = 16
"""Codes of a row that `torch._weight_int8pack_mm`, which quanto calls on a CPU, reads at once, the
last ones too: of another width it makes infinities, or ends the process."""


@cache
def layer_class() -> type[Any]:
    """The class of the layers, made when the first is: torch and quanto are imported for it."""
    import torch
    from optimum.quanto import WeightQBytesTensor, qtypes
    from torch import nn

    class QuantoLayer(nn.Linear):
        """A linear layer of codes."""

        scale: torch.Tensor
        shift: torch.Tensor | None

        def __init__(self, layer: nn.Linear, codes: Codes) -> None:
            """Quantizes the weights of a layer, whose bias it takes on."""
            nn.Module.__init__(self)
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.codes = codes
            data, scale, shift = _quantized(layer.weight.data, codes)
            self.weight = nn.Parameter(data, requires_grad=False)
            self.register_buffer("scale", scale)
            self.register_buffer("shift", shift)
            self.bias = layer.bias

        def of_rows(self) -> torch.Tensor:
            """Codes of 8 bits with a scale a row as quanto's own tensor."""
            size = torch.Size((self.out_features, self.in_features))
            made: torch.Tensor = WeightQBytesTensor(
                qtypes[self.codes.qtype], 0, size, (size[1], 1), self.weight.data, self.scale, None
            )
            return made

        def dequantize(self) -> torch.Tensor:
            """Its weights, (out, in), as quanto makes them of the codes.

            Those with a shift by operations of torch, without the tensor between, which quanto
            leaves to the collector of cycles: many would be there at once.
            """
            if self.shift is None:
                with _outside_inference_mode():
                    whole: torch.Tensor = self.of_rows().dequantize()
                return whole
            made = _unpacked(self.weight.data, self.codes.bits)[: len(self.scale)]
            made = self.scale * made
            made -= self.shift
            weights: torch.Tensor = made.reshape(self.out_features, self.in_features)
            return weights

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            """Quanto's product of 8-bit codes; of others that of the dequantized weights.

            Of those too whose rows torch's kernel for CPUs would read past their end. Nothing but
            codes and inputs is kept for the way back.
            """
            if self.shift is not None or self.in_features % _AT_ONCE:
                made: torch.Tensor = _product()(given, self)
                return made
            with _outside_inference_mode():
                return nn.functional.linear(given, self.of_rows(), self.bias)

        def held_tensors(self) -> Iterator[tuple[Kind, torch.Tensor, int]]:
            """What it keeps: kind, tensor, and the weights that it stands for."""
            yield "linear", self.weight, self.in_features * self.out_features
            yield "quantization_state", self.scale, 0
            if self.shift is not None:
                yield "quantization_state", self.shift, 0
            if self.bias is not None:
                yield "biases", self.bias, self.bias.numel()

    return QuantoLayer


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes in bytes: those in the lowest bits of all rows first, as quanto packs them.

    Its own operation compiles C++ when a CPU first asks for it, and fails without a compiler.
    """
    import torch

    mask = 2**bits - 1
    return torch.cat([(packed >> place) & mask for place in range(0, 8, bits)])


@cache
def _product() -> Any:
    """(inputs, layer): their product, as an operation that has a way back."""
    import torch

    class Product(torch.autograd.Function):
        """Inputs times dequantized weights, which are made again in the way back."""

        @staticmethod
        def forward(ctx: Any, given: torch.Tensor, layer: Any) -> torch.Tensor:
            """The output, with the bias."""
            ctx.layer = layer
            return torch.nn.functional.linear(given, layer.dequantize(), layer.bias)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
            """Of the inputs alone: codes are not trained."""
            (grad,) = grads
            return grad @ ctx.layer.dequantize().to(grad.dtype), None

    return Product.apply


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Leaves inference mode, where it is on, for no gradients; else changes nothing."""
    import torch

    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(mode=False), torch.no_grad():
        yield


def quantized_layer(layer: nn.Linear, codes: Codes) -> Any:
    """A layer that holds another's weights in codes, scales in the type that they had."""
    return layer_class()(layer, codes)


def _quantized(
    weights: torch.Tensor, codes: Codes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Codes, scales and shifts of a matrix (out, in), scales by the extremes as quanto's are.

    Rows of zeros have the scale 1 instead of quanto's 0, which makes no numbers of them in E4M3.
    """
    from optimum.quanto import AbsmaxOptimizer, MaxOptimizer, qtypes, quantize_weight

    # quanto has no public names for what its tensors hold.
    kind = qtypes[codes.qtype]
    if not codes.shifted:
        scale = AbsmaxOptimizer()(weights, kind, 0)
        scale = scale.where(scale != 0, 1.0)
        held = quantize_weight(weights, kind, 0, scale, optimized=False)
        return held._data.clone(), held._scale.clone(), None  # noqa: SLF001
    group = group_of(weights.shape[1])
    scale, shift = MaxOptimizer()(weights, kind, 0, group)
    held = quantize_weight(weights, kind, 0, scale, shift, group, optimized=False)
    return held._data._data.clone(), held._scale.clone(), held._shift.clone()  # noqa: SLF001


def naive_weight(layer: Any, rows: slice) -> torch.Tensor:
    """Code · scale - shift, weight by weight: the definition, (rows, in) in fp32.

    A row has one scale and no shift where codes have 8 bits. Else the weights are folded into a
    matrix of a group a row; of so many bytes to a column the code of row i lies in byte i modulo
    that, and the first rows' in the lowest bits.
    """
    import torch

    if layer.shift is None:
        of_rows: torch.Tensor = layer.weight[rows].float() * layer.scale[rows].float()
        return of_rows
    words, columns = layer.weight.shape
    first, end = rows.start * layer.in_features, rows.stop * layer.in_features
    flat = torch.arange(first, end, device=layer.weight.device)
    row, column = flat // columns, flat % columns
    bits = layer.codes.bits
    packed = layer.weight[row % words, column].int()
    codes = (packed >> (bits * (row // words))) & (2**bits - 1)
    scale, shift = (one.float().reshape(-1)[row] for one in (layer.scale, layer.shift))
    values: torch.Tensor = codes.float() * scale - shift
    return values.reshape(-1, layer.in_features)
