"""e5m2 for qbench: weights as 8-bit floating-point codes E5M2, one scale an output row.

A weight w of row r is held as the code nearest to w / s_r, where s_r = max|w_r| / 57344, the
largest number of E5M2 (Micikevicius et al. 2022, arXiv 2209.05433). Inputs stay as they are:
before each product the codes become numbers again. Embeddings and the output head are not
quantized.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from qbench.plugin import (
    ITEM_BYTES,
    Also,
    FloatType,
    Frozen,
    LayerFormat,
    Precision,
    Products,
    Verification,
    load_layer_by_layer,
    static_bytes,
    verify_quantized,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.plugin import Checkpoint, ModelShape, StaticBytes, TensorShape

LARGEST = 57344.0
"""Of E5M2: 1.75 · 2^15."""
WEIGHT_TOLERANCE = {"fp32": 1e-6, "bf16": 4e-3, "fp16": 5e-4}
OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Rounding of weights and products, relative, by the type they are made in."""


class E5m2Options(Frozen):
    """Options of `e5m2`."""

    dtype: Annotated[FloatType, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized, and of the products."""


class E5m2(Precision):
    """8-bit floating-point weights, dequantized for each product."""

    name = "e5m2"
    summary = "8-bit floating-point weights (E5M2), one scale an output row"
    title = "E5M2"
    order = 25
    options = E5m2Options

    def storage(self, shape: ModelShape, options: E5m2Options) -> StaticBytes:
        """A byte a weight, and an fp32 scale an output row."""

        def codes_and_scales(tensor: TensorShape) -> tuple[int, int]:
            return tensor.numel, 4 * tensor.out_features

        return static_bytes(shape, ITEM_BYTES[options.dtype], codes_and_scales)

    def products(self, options: E5m2Options, config: Mapping[str, Any] | None = None) -> Products:
        """A layer's codes become numbers, and these are multiplied by their scales: two copies."""
        return Products("dequantized", rest=options.dtype, compute=options.dtype)

    def load(self, checkpoint: Checkpoint, options: E5m2Options) -> PreTrainedModel:
        """Each layer is quantized as it is read: the model in 16 bits need not fit."""
        held: Any = layer_class()

        def quantize(_: str, layer: nn.Linear) -> Any:
            return held(layer)

        return load_layer_by_layer(checkpoint, dtype=options.dtype, quantize=quantize)

    def verify(self, model: PreTrainedModel, options: E5m2Options) -> Verification:
        """Every layer holds codes and scales, and computes what they say."""
        dtype = options.dtype
        return verify_quantized(
            model,
            layer_class(),
            LayerFormat(naive=by_definition, library=as_it_computes),
            state_fault=state_fault,
            shape_of=lambda layer: tuple(layer.weight.shape),
            dequantized_tolerance=WEIGHT_TOLERANCE[dtype],
            forward_tolerance=OUTPUT_TOLERANCE[dtype],
            details={"quant_type": self.name, "dtype": dtype, "compute_dtype": dtype},
        )

    def weights(self, layer: Any) -> torch.Tensor:
        """Code times scale; of layers that were left alone, their own."""
        held: Any = layer
        return held.dequantized() if isinstance(layer, layer_class()) else super().weights(layer)

    def rounded(self, values: torch.Tensor, options: E5m2Options) -> torch.Tensor:
        """What `qbench explain e5m2` shows."""
        import torch

        codes, scales = quantize(values)
        return codes.view(torch.float8_e5m2).float() * scales


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes as bytes, (out, in), and the scale of each row, (out, 1), in fp32."""
    import torch

    wide = weight.float()
    scales = wide.abs().amax(dim=1, keepdim=True) / LARGEST
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny)  # a row of zeros
    codes = (wide / scales).clamp(-LARGEST, LARGEST).to(torch.float8_e5m2)
    return codes.view(torch.uint8), scales


@cache
def layer_class() -> type[nn.Linear]:
    """The layer; made when it is first needed, since planning must not import torch."""
    import torch
    from torch import nn

    class E5m2Linear(nn.Linear):
        """Holds its codes as bytes, so that nothing takes them for numbers to cast or to train."""

        scales: torch.Tensor

        def __init__(self, plain: nn.Linear) -> None:
            super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
            codes, scales = quantize(plain.weight.data)
            self.weight = nn.Parameter(codes, requires_grad=False)
            self.register_buffer("scales", scales)
            self.bias = plain.bias

        def dequantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            """Its weights, (out, in)."""
            return self.weight.view(torch.float8_e5m2).to(dtype) * self.scales.to(dtype)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """As a linear layer with the weights that the codes say."""
            return nn.functional.linear(inputs, self.dequantized(inputs.dtype), self.bias)

    return E5m2Linear


def by_definition(layer: Any, rows: slice) -> torch.Tensor:
    """Sign, 5 bits of exponent (bias 15) and 2 of mantissa, bit by bit, times the row's scale."""
    import torch

    codes: torch.Tensor = layer.weight[rows].int()
    scales: torch.Tensor = layer.scales[rows]
    sign = 1.0 - 2.0 * (codes >> 7).float()
    exponent, mantissa = (codes >> 2) & 31, (codes & 3).float() / 4
    normal = (1 + mantissa) * torch.exp2(exponent.float() - 15)
    subnormal = mantissa * 2.0**-14
    return sign * torch.where(exponent > 0, normal, subnormal) * scales


def as_it_computes(layer: Any, rows: slice) -> torch.Tensor:
    """The same as torch converts it."""
    held: torch.Tensor = layer.dequantized()[rows]
    return held


def state_fault(layer: Any) -> str | None:
    """Codes from 0x7C and 0xFC on are infinite or no number: a weight that was so."""
    wrong = int(((layer.weight & 0x7F) >= 0x7C).sum())
    return f"holds {wrong} codes that are no finite number" if wrong else None


E5M2 = E5m2()
