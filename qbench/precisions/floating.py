"""fp32, bf16 and fp16: the weights as they are, rounded to one floating type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import BF16, FP16, FP32, ITEM_BYTES, FloatType, torch_type
from qbench.core.spec import Frozen, PrecisionRef
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.products import floating as plain_products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, attention_backend, linear_layers
from qbench.precisions.writing.form import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.spec import ModelShape, ResolvedModel, StaticBytes
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.writing.form import CheckpointForm


class FloatingOptions(Frozen):
    """fp32, bf16 and fp16 have no options."""


@dataclass(frozen=True)
class Floating(Precision):
    """All weights in one floating type."""

    name: FloatType
    summary: str
    order: int
    slow_on_cpu: bool = False
    also_called: tuple[str, ...] = ()
    options: type[Frozen] = FloatingOptions

    def misfit(self, options: FloatingOptions, model: ResolvedModel) -> str | None:
        """Any model can be held as it is."""
        return None

    def products(
        self, options: FloatingOptions, config: Mapping[str, Any] | None = None
    ) -> Products:
        """In the type itself."""
        return plain_products(self.name)

    def storage(self, shape: ModelShape, options: FloatingOptions) -> StaticBytes:
        """Elements times the type's bytes."""
        return static_bytes(shape, ITEM_BYTES[self.name], linear=None)

    def untrainable(self, options: FloatingOptions, method: str, training: Frozen) -> str | None:
        """What a gradient or PEFT needs is there."""
        return None

    def explain(self, weight: Weight, options: FloatingOptions) -> Page:
        """Fields, range and spacing, and a weight's bits taken apart."""
        from qbench.precisions.explain import floating

        return floating.explain(self.name, weight)

    def load(self, checkpoint: Checkpoint, options: FloatingOptions) -> PreTrainedModel:
        """Loads the checkpoint rounded to the type."""
        return load_pretrained(checkpoint, dtype=self.name)

    def hold_layer(self, name: str, layer: nn.Linear, options: FloatingOptions) -> None:
        """It stays as it is: the rest of the model is of the same type."""

    def forms(self, options: FloatingOptions) -> tuple[CheckpointForm, ...]:
        """Plain numbers."""
        return (PLAIN,)

    def verify(self, model: PreTrainedModel, options: FloatingOptions) -> Verification:
        """Every linear weight has the type that was asked for."""
        expected = torch_type(self.name)
        layers = linear_layers(model)
        faults = [
            f"{name} ({'×'.join(map(str, layer.weight.shape))}) holds {layer.weight.dtype}"
            f" where {expected} was asked for"
            for name, layer in layers
            if layer.weight.dtype != expected
        ]
        return Verification(
            details={
                "dtype": self.name,
                "linear_modules": len(layers),
                "quantized_modules": 0,
                "quantized_share": 0.0,
                "attention": attention_backend(model),
            },
            faults=tuple(faults),
        )


PRECISIONS = (
    Floating(
        FP32,
        "32-bit floating point: the reference where it fits",
        10,
        also_called=("float32", "f32", "float"),
    ),
    Floating(BF16, "bfloat16: 8 bits of exponent, 7 of mantissa", 11, also_called=("bfloat16",)),
    Floating(
        FP16,
        "half precision: 5 bits of exponent, 10 of mantissa; slow on most CPUs",
        12,
        slow_on_cpu=True,
        also_called=("float16", "f16", "half"),
    ),
)
REFERENCES = (FP32, BF16)
"""What the others are compared with unless a suite says it: the first of these that is there."""


def in_type(dtype: FloatType) -> PrecisionRef:
    """The precision that holds all weights in a type."""
    return PrecisionRef(label=dtype, name=dtype)


DEFAULT_BASE = in_type(BF16)
"""What a model is held in while it is tuned, unless a suite says it."""
