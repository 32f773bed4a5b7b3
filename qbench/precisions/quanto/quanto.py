"""quanto: weights in 8, 4 or 2 bits or E4M3, scales by the extremes, by its own package.

optimum-quanto 0.2.7 (github.com/huggingface/optimum-quanto). A weight is code · scale (8 bits, a
scale a row) or code · scale - shift (4 and 2 bits, groups of at most 128). Activations are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from qbench.core.aliases import Also
from qbench.core.number_types import ITEM_BYTES, FloatOption
from qbench.core.spec import Frozen
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.layer_probe import LayerFormat
from qbench.precisions.precision import Precision
from qbench.precisions.quanto.format import Codes, group_of, layer_bytes
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, verify_quantized

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import ModelShape, StaticBytes, TensorShape

_WEIGHT_TOLERANCE = {"fp32": 1e-5, "bf16": 4e-3, "fp16": 5e-4}
"""Rounding of code · scale."""
_SHIFTED = 3
"""How much larger it is beside what a shift leaves: codes begin with 0 at the least of a group, so
that code · scale is some three times as large as a weight."""
_OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Rounding of weights, sums and outputs, relative to the output's norm."""


class QuantoOptions(Frozen):
    """Options of `quanto-int8` and the others."""

    dtype: Annotated[FloatOption, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized, of scales and shifts, and of the products."""


@dataclass(frozen=True)
class Quanto(Precision):
    """One of quanto's formats, of weights alone."""

    name: str
    summary: str
    codes: Codes
    title: str
    also_called: tuple[str, ...] = ()
    options: type[Frozen] = QuantoOptions
    order: int = 38
    by_default: bool = False
    needs: tuple[str, ...] = ("optimum-quanto",)

    def storage(self, shape: ModelShape, options: QuantoOptions) -> StaticBytes:
        """Packed codes, and scales and shifts of the type of the rest."""
        item = ITEM_BYTES[options.dtype]

        def linear(tensor: TensorShape) -> tuple[int, int]:
            return layer_bytes(self.codes, tensor.out_features, tensor.in_features, item)

        return static_bytes(shape, item, linear)

    def unlike_served(self, options: QuantoOptions, device: str) -> str | None:
        """Quanto has kernels that read codes, for some GPUs and types."""
        return (
            "it runs on quanto's products for any machine, which dequantize; its kernels for single"
            " GPUs and types (tinygemm, Marlin) read the codes instead, and are faster"
        )

    def weights(self, layer: Any) -> torch.Tensor:
        """As quanto dequantizes them."""
        held: torch.Tensor = layer.dequantize() if hasattr(layer, "codes") else layer.weight
        return held

    def rounded(self, values: torch.Tensor, options: QuantoOptions) -> torch.Tensor | None:
        """What quanto makes of a matrix."""
        from torch import nn

        from qbench.core.number_types import torch_type
        from qbench.precisions.quanto.layers import quantized_layer

        outputs, inputs = values.shape
        layer = nn.Linear(inputs, outputs, bias=False, device="meta")
        layer.weight = nn.Parameter(values.to(torch_type(options.dtype)), requires_grad=False)
        made: torch.Tensor = quantized_layer(layer, self.codes).dequantize()
        return made

    def load(self, checkpoint: Checkpoint, options: QuantoOptions) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer while reading it."""
        return load_layer_by_layer(
            checkpoint,
            dtype=options.dtype,
            quantize=lambda name, layer: self.hold_layer(name, layer, options),
            weight_bytes=self.codes.bits / 8,
        )

    def hold_layer(self, name: str, layer: nn.Linear, options: QuantoOptions) -> nn.Module:
        """As quanto quantizes it."""
        from qbench.precisions.quanto.layers import quantized_layer

        made: nn.Module = quantized_layer(layer, self.codes)
        return made

    def unwritable(self, options: QuantoOptions) -> str:
        """Nothing reads it."""
        return "transformers reads nothing that quanto saved"

    def verify(self, model: PreTrainedModel, options: QuantoOptions) -> Verification:
        """Every linear layer holds codes of this format, and computes what they say."""
        from qbench.precisions.quanto.layers import layer_class, naive_weight

        def state_fault(layer: Any) -> str | None:
            if layer.codes != self.codes:
                return f"holds {layer.codes.qtype} where {self.codes.qtype} was asked for"
            sizes = layer.out_features, layer.in_features
            expected, _ = layer_bytes(self.codes, *sizes, ITEM_BYTES[options.dtype])
            found = layer.weight.numel() * layer.weight.element_size()
            if found != expected:
                return f"holds {found} bytes of codes where {expected} were expected"
            return None

        larger = _SHIFTED if self.codes.shifted else 1
        return verify_quantized(
            model,
            layer_class(),
            LayerFormat(naive=naive_weight, library=lambda layer, rows: layer.dequantize()[rows]),
            state_fault=state_fault,
            shape_of=lambda layer: (layer.out_features, layer.in_features),
            dequantized_tolerance=_WEIGHT_TOLERANCE[options.dtype] * larger,
            forward_tolerance=_OUTPUT_TOLERANCE[options.dtype] * larger,
            details={
                "quant_type": self.codes.qtype,
                "groups": sorted(_groups(model)) if self.codes.shifted else [],
                "dtype": options.dtype,
                "compute_dtype": options.dtype,
                "backend": "optimum-quanto's products for any machine",
            },
        )


def _groups(model: PreTrainedModel) -> set[int]:
    """Weights that share a scale, of all layers that hold codes."""
    layers = (one for one in model.modules() if hasattr(one, "codes"))
    return {group_of(int(one.in_features)) or int(one.in_features) for one in layers}


PRECISIONS = (
    Quanto(
        "quanto-int8",
        "quanto's 8-bit integer weights, a scale a row",
        Codes("qint8", 8),
        "quanto int8",
        ("qint8",),
    ),
    Quanto(
        "quanto-fp8",
        "quanto's E4M3 weights, a scale a row",
        Codes("qfloat8_e4m3fn", 8),
        "quanto fp8",
        ("qfloat8", "qfloat8_e4m3fn"),
    ),
    Quanto(
        "quanto-int4",
        "quanto's 4-bit weights, a scale and a shift a group of 128",
        Codes("qint4", 4),
        "quanto int4",
        ("qint4",),
    ),
    Quanto(
        "quanto-int2",
        "quanto's 2-bit weights, a scale and a shift a group of 128",
        Codes("qint2", 2),
        "quanto int2",
        ("qint2",),
    ),
)
