"""Models whose layers cannot be replaced by ones that hold codes, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel


def conversion_misfit(model: ResolvedModel) -> str | None:
    """Why the model's layers cannot hold codes; None if they can, or it is not known."""
    if model.shape is None:
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
