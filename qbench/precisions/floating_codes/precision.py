"""fp8 and its kind as precisions: how they are loaded, counted, verified and explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.number_types import FP32, ITEM_BYTES, torch_type
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.emulated import dequantized_first
from qbench.precisions.floating_codes.fp8 import Fp8
from qbench.precisions.floating_codes.options import FloatingCodesOptions, Fp8Options
from qbench.precisions.layer_probe import OUTPUT_TOLERANCE, WEIGHT_TOLERANCE, LayerFormat
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, verify_quantized

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import Frozen, ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.precisions.floating_codes.coding import Coding


@dataclass(frozen=True)
class FloatingCodes(LibraryWeights, Precision):
    """Linear layers whose weights are floating-point codes with scales."""

    name: str
    summary: str
    coding: Coding
    options: type[Frozen] = FloatingCodesOptions
    title: str | None = None
    also_called: tuple[str, ...] = ()
    order: int = 22
    by_default: bool = False
    needs: tuple[str, ...] = ("torchao",)

    def misfit(self, options: FloatingCodesOptions, model: ResolvedModel) -> str | None:
        """A block that divides the width of no layer."""
        reason = conversion_misfit(model)
        if reason is not None or model.shape is None:
            return reason
        widths = {tensor.in_features for tensor in model.shape.tensors if tensor.role == "linear"}
        return None if any(map(self.coding.fits, widths)) else self._no_layer_fits(widths)

    def _no_layer_fits(self, widths: Collection[int]) -> str:
        return (
            f"{self.name} has a scale for {self.coding.block} weights of a row, which divides the"
            f" width of no linear layer ({', '.join(map(str, sorted(widths)))}): nothing would be"
            " quantized; choose a precision whose scales are those of whole rows"
        )

    def products(
        self, options: FloatingCodesOptions, config: Mapping[str, Any] | None = None
    ) -> Products:
        """Dequantized by torchao: codes in fp32, these times their scales, then in the type."""
        return Products(
            "dequantized",
            options.dtype,
            options.dtype,
            group=self.coding.block,
            copies=0 if options.dtype == FP32 else 1,
            fp32_copies=2,
        )

    def unlike_served(self, options: FloatingCodesOptions, device: str) -> str | None:
        """Floating weights are made of all codes first."""
        return dequantized_first()

    def storage(self, shape: ModelShape, options: FloatingCodesOptions) -> StaticBytes:
        """Codes of their own width, and the scales beside them."""
        item = ITEM_BYTES[options.dtype]

        def linear(tensor: TensorShape) -> tuple[int, int]:
            if not self.coding.fits(tensor.in_features):
                return tensor.numel * item, 0
            size = (tensor.out_features, tensor.in_features)
            return self.coding.code_bytes(*size), self.coding.state_bytes(options, *size)

        return static_bytes(shape, item, linear)

    def load(self, checkpoint: Checkpoint, options: FloatingCodesOptions) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer as it is read.

        Raises `ModelError` where no layer can be quantized.
        """
        widths: set[int] = set()

        def quantize(_: str, layer: nn.Linear) -> None:
            widths.add(layer.in_features)
            self._quantize(layer, options)

        model = load_layer_by_layer(
            checkpoint,
            dtype=options.dtype,
            quantize=quantize,
            weight_bytes=self.coding.code_bits / 8,
        )
        if not any(map(self.coding.fits, widths)):
            raise ModelError(f"{checkpoint.folder}: {self._no_layer_fits(widths)}")
        return model

    def _quantize(self, layer: Any, options: FloatingCodesOptions) -> None:
        """Replaces the weight of a layer that fits by codes, computed in fp32."""
        import torch

        if self.coding.fits(layer.in_features):
            weight = layer.weight.data.float()
            codes = self.coding.quantize(weight, options, torch_type(options.dtype))
            layer.weight = torch.nn.Parameter(codes, requires_grad=False)

    def verify(self, model: PreTrainedModel, options: FloatingCodesOptions) -> Verification:
        """Every layer that fits holds codes and scales of this format, and computes with them."""
        from torch import nn

        return verify_quantized(
            model,
            nn.Linear,
            LayerFormat(
                naive=lambda layer, rows: self.coding.naive_weight(layer.weight, rows),
                library=_library_weight,
            ),
            is_left_out=lambda layer: (
                not is_coded(layer)
                and not (type(layer) is nn.Linear and self.coding.fits(layer.in_features))
            ),
            state_fault=lambda layer: self._state_fault(layer, options),
            shape_of=lambda layer: tuple(layer.weight.shape),
            dequantized_tolerance=WEIGHT_TOLERANCE[options.dtype],
            forward_tolerance=OUTPUT_TOLERANCE[options.dtype],
            details={
                "quant_type": self.coding.quant_type,
                **options.model_dump(),
                "block": self.coding.block,
                "compute_dtype": options.dtype,
            },
        )

    def _state_fault(self, layer: Any, options: FloatingCodesOptions) -> str | None:
        if not is_coded(layer):
            return f"holds {layer.weight.dtype} where codes of torchao were expected"
        found, expected = (
            layer.weight.scale.numel(),
            self.coding.scales(options, layer.out_features, layer.in_features),
        )
        if found != expected:
            return f"holds {found} scales where {expected} were expected"
        return None

    def rounded(self, values: torch.Tensor, options: FloatingCodesOptions) -> torch.Tensor | None:
        """As torchao quantizes and dequantizes it; None where its width does not fit."""
        if not self.coding.fits(values.shape[1]):
            return None
        codes = self.coding.quantize(values.contiguous(), options, torch_type(options.dtype))
        found: torch.Tensor = codes.dequantize()
        return found.float()


def is_coded(layer: Any) -> bool:
    """Whether the layer's weight is one of torchao's tensors of codes."""
    return hasattr(layer.weight, "qdata")


def _library_weight(layer: Any, rows: slice) -> torch.Tensor:
    found: torch.Tensor = layer.weight[rows].dequantize()
    return found


PRECISIONS = (
    FloatingCodes(
        "fp8",
        "8-bit floating-point weights (E4M3), a scale a row",
        Fp8(),
        Fp8Options,
        "FP8",
        also_called=("float8_weight_only", "float8wo", "fp8-e4m3", "w8a16-fp8"),
    ),
)
