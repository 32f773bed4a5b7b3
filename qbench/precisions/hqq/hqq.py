"""HQQ: codes of 1 to 8 bits whose zero points make a robust norm of the error small.

Badri and Shaji 2023, Half-Quadratic Quantization (mobiusml.github.io/hqq_blog); the implementation
is hqq's. A weight is (code - zero point) · scale. The scale is that of the group's extremes; the
zero point is moved by a solver that makes the sum of |error|^0.7 small, which lets outliers be. It
sees the weights alone: there is nothing to calibrate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.number_types import ITEM_BYTES, torch_type
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.hqq.options import Bits, FreeHqqOptions, HqqOptions, layer_bytes
from qbench.precisions.layer_probe import LayerFormat
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, verify_quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import Frozen, ModelShape, ResolvedModel, StaticBytes, TensorShape

BACKEND = "hqq's PyTorch back end: dequantized, then multiplied"
_WEIGHT_TOLERANCE = {"fp32": 1e-5, "bf16": 4e-3, "fp16": 5e-4}
"""Rounding of (code - zero point) and of its product with the scale."""
_OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Rounding of weights, sums and outputs, relative to the output's norm."""


@dataclass(frozen=True)
class Hqq(Precision):
    """HQQ of one width, or of any."""

    name: str
    summary: str
    bits: Bits | None = None
    """The width; None where it is an option."""
    also_called: tuple[str, ...] = ()
    title: str | None = None
    options: type[Frozen] = HqqOptions
    order: int = 37
    by_default: bool = False
    needs: tuple[str, ...] = ("hqq",)

    def width(self, options: HqqOptions) -> Bits:
        """Bits of a code."""
        return options.bits if isinstance(options, FreeHqqOptions) else self.bits or 4

    def misfit(self, options: HqqOptions, model: ResolvedModel) -> str | None:
        """A group into which no layer falls."""
        shape = model.shape
        held = shape is None or any(
            self._bytes(tensor, options) is not None
            for tensor in shape.tensors
            if tensor.role == "linear" and tensor.layer != "own class"
        )
        return conversion_misfit(model) or (None if held else _no_layer(options))

    def _bytes(self, tensor: TensorShape, options: HqqOptions) -> tuple[int, int] | None:
        sizes = tensor.out_features, tensor.in_features
        return layer_bytes(options, self.width(options), *sizes, ITEM_BYTES[options.dtype])

    def storage(self, shape: ModelShape, options: HqqOptions) -> StaticBytes:
        """Packed codes, and for each group a scale and a zero point of the type of the rest."""
        item = ITEM_BYTES[options.dtype]

        def linear(tensor: TensorShape) -> tuple[int, int]:
            return self._bytes(tensor, options) or (tensor.numel * item, 0)

        return static_bytes(shape, item, linear)

    def unlike_served(self, options: HqqOptions, device: str) -> str | None:
        """Served models are multiplied by kernels that read the codes."""
        return (
            f"it runs on {BACKEND}; the fused kernels that HQQ models are served with (gemlite,"
            " torchao's tinygemm) read the codes instead, and are faster"
        )

    def products(self, options: HqqOptions, config: Mapping[str, Any] | None = None) -> Products:
        """Dequantized in whole layers: codes as numbers, less zero points, times scales."""
        return Products("dequantized", options.dtype, options.dtype, copies=3)

    def weights(self, layer: Any) -> torch.Tensor:
        """As hqq dequantizes them."""
        held: torch.Tensor = layer.dequantize() if hasattr(layer, "dequantize") else layer.weight
        return held

    def rounded(self, values: torch.Tensor, options: HqqOptions) -> torch.Tensor | None:
        """What hqq makes of a matrix; None for one that does not fall into groups."""
        from torch import nn

        from qbench.precisions.hqq.layers import quantized_layer

        outputs, inputs = values.shape
        if layer_bytes(options, self.width(options), outputs, inputs, 1) is None:
            return None
        layer = nn.Linear(inputs, outputs, bias=False, device="meta")
        layer.weight = nn.Parameter(values, requires_grad=False)
        dtype = torch_type(options.dtype)
        made: torch.Tensor = quantized_layer(
            layer, options, self.width(options), dtype
        ).dequantize()
        return made

    def load(self, checkpoint: Checkpoint, options: HqqOptions) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer while reading it.

        Raises `ModelError` where no layer can be quantized.
        """
        from qbench.precisions.hqq.layers import layer_class

        model = load_layer_by_layer(
            checkpoint,
            dtype=options.dtype,
            quantize=lambda name, layer: self.hold_layer(name, layer, options),
            weight_bytes=self.width(options) / 8,
        )
        if not any(isinstance(module, layer_class()) for module in model.modules()):
            raise ModelError(f"{checkpoint.folder}: {_no_layer(options)}")
        return model

    def hold_layer(self, name: str, layer: nn.Linear, options: HqqOptions) -> nn.Module | None:
        """As hqq quantizes it; one that does not fall into whole groups stays."""
        from qbench.precisions.hqq.layers import quantized_layer

        bits, sizes = self.width(options), (layer.out_features, layer.in_features)
        if layer_bytes(options, bits, *sizes, ITEM_BYTES[options.dtype]) is None:
            return None
        made: nn.Module = quantized_layer(layer, options, bits, torch_type(options.dtype))
        return made

    def unwritable(self, options: HqqOptions) -> str:
        """Nothing reads it."""
        return (
            "transformers reads nothing that hqq saved, and HQQ's zero points are fractions, where"
            " the formats of compressed-tensors and GPTQ have integers"
        )

    def verify(self, model: PreTrainedModel, options: HqqOptions) -> Verification:
        """Every layer that falls into groups holds codes, and computes what they say."""
        from qbench.precisions.hqq.layers import LastDequantized, layer_class, naive_weight

        bits = self.width(options)

        def state_fault(layer: Any) -> str | None:
            held = {name: layer.meta[name] for name in ("nbits", "group_size", "axis")}
            asked = {"nbits": bits, "group_size": options.group, "axis": options.axis}
            expected = layer_bytes(options, bits, layer.out_features, layer.in_features, 1)
            found = layer.weight.numel() * layer.weight.element_size()
            if held != asked:
                return f"holds {held} where {asked} was asked for"
            if expected is None or found != expected[0]:
                return f"holds {found} bytes of codes where {expected} were expected"
            return None

        return verify_quantized(
            model,
            layer_class(),
            LayerFormat(naive=naive_weight, library=LastDequantized().rows),
            state_fault=state_fault,
            shape_of=lambda layer: tuple(layer.meta["shape"]),
            dequantized_tolerance=_WEIGHT_TOLERANCE[options.dtype],
            forward_tolerance=_OUTPUT_TOLERANCE[options.dtype],
            details={
                "quant_type": f"int{bits}",
                "method": "HQQ" if options.optimize else "nearest levels",
                "group": options.group,
                "axis": options.axis,
                "optimize": options.optimize,
                "dtype": options.dtype,
                "compute_dtype": options.dtype,
                "backend": BACKEND,
            },
        )


def _no_layer(options: HqqOptions) -> str:
    return (
        f"no linear layer falls into whole groups of {options.group} on axis {options.axis}, which"
        " hqq can pack: choose a smaller `group`"
    )


PRECISIONS = (
    *(
        Hqq(
            f"hqq{bits}",
            f"HQQ: {bits}-bit weights, a zero point found for each group of 64",
            bits,
            also_called=(f"hqq-{bits}bit", f"hqq-int{bits}"),
            title=f"HQQ {bits}-bit",
        )
        for bits in (4, 3, 2)
    ),
    Hqq("hqq", "HQQ of 1 to 8 bits, every option free", options=FreeHqqOptions),
)
