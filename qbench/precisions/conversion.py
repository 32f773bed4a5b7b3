"""Which layers libraries replace by ones that hold codes, known before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions import bnb4bit, int8
from qbench.precisions.integer import integer

if TYPE_CHECKING:
    from qbench.core.spec import PrecisionRef, ResolvedModel

CONVERTING = frozenset(
    precision.name
    for family in (int8.PRECISIONS, bnb4bit.PRECISIONS, integer.PRECISIONS)
    for precision in family
)
"""Precisions whose library replaces the layers of an unquantized model."""


def conversion_misfit(precision: PrecisionRef, model: ResolvedModel) -> str | None:
    """Why the model's layers cannot hold codes; None if they can, or it is not known."""
    if precision.name not in CONVERTING or model.shape is None:
        return None
    weights = [tensor for tensor in model.shape.tensors if tensor.role == "linear"]
    own = [one.name.removesuffix(".weight") for one in weights if one.layer == "own product"]
    if own:
        more = f" and {len(own) - 1} more" if len(own) > 1 else ""
        return (
            "the model's own code multiplies with the weight of a layer, past the one that would"
            f" hold codes ({own[0]}{more}); choose fp32, bf16 or fp16"
        )
    if weights and all(one.layer == "own class" for one in weights):
        return (
            "transformers and torchao convert plain linear layers alone, and those of this model"
            " are of a class of its own: nothing would be quantized; choose fp32, bf16 or fp16"
        )
    return None
