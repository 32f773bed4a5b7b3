"""fp32, bf16 and fp16: the weights as they are, rounded to one floating type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.spec import Frozen
from qbench.precisions.loading import TORCH_DTYPE, load_pretrained
from qbench.precisions.storage import ITEM_BYTES, static_bytes
from qbench.precisions.verification import Verification, attention_backend, linear_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import Environment
    from qbench.core.spec import ModelShape, StaticBytes


class FloatingOptions(Frozen):
    """fp32, bf16 and fp16 have no options."""


@dataclass(frozen=True)
class Floating:
    """All weights in one floating type."""

    name: str
    summary: str
    needs: tuple[str, ...] = ()
    options: type[Frozen] = FloatingOptions

    def unavailable(self, environment: Environment) -> str | None:
        """Runs everywhere; slowly on hardware without arithmetic of its own for the type."""
        return None

    def storage(self, shape: ModelShape, options: dict[str, Any]) -> StaticBytes:
        """Elements times the type's bytes."""
        return static_bytes(shape, ITEM_BYTES[self.name], linear=None)

    def load(self, checkpoint: Checkpoint, options: dict[str, Any]) -> PreTrainedModel:
        """Loads the checkpoint rounded to the type."""
        return load_pretrained(checkpoint, dtype=self.name)

    def verify(self, model: PreTrainedModel, options: dict[str, Any]) -> Verification:
        """Every linear weight has the type that was asked for."""
        import torch

        expected = getattr(torch, TORCH_DTYPE[self.name])
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
    Floating("fp32", "32-bit floating point: the reference where it fits"),
    Floating("bf16", "bfloat16: 8 bits of exponent, 7 of mantissa"),
    Floating("fp16", "half precision: 5 bits of exponent, 10 of mantissa; slow on most CPUs"),
)
