"""Plain numbers in the place of codes: what any program loads, without what the codes save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.writing.form import Form, save

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.precision import Precision

NUMBERS = "numbers"
_ROUNDS_INPUTS = ("outliers", "codes", "rounded", "mixed", "floating")
"""Products of which the weights' numbers are not all, or that have them already."""
_TOLERANCE = 0.02
_INEXACT = (
    "each weight is rounded to the model's type once, and is multiplied by other kernels than those"
    " that read codes"
)


def numbers_form(held: Precision, options: Any) -> Form | None:
    """Of a precision that knows the weights of its codes; None where they are not all of it."""
    products = held.products(options)
    if not held.dequantizes or (products is not None and products.kind in _ROUNDS_INPUTS):
        return None

    def write(model: PreTrainedModel, folder: Path) -> None:
        save(model, folder, tensors=_as_numbers(model, held))

    return Form(
        NUMBERS,
        write,
        "the numbers that the codes stand for, in the model's own type, with nothing saved",
        tolerance=_TOLERANCE,
        inexact=_INEXACT,
        same_bytes=False,
    )


def _as_numbers(model: PreTrainedModel, held: Precision) -> dict[str, Any]:
    """The state of the model with numbers for each layer of codes, by the checkpoint's names."""
    import torch

    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    found: dict[str, Any] = {}
    for key, tensor in model.state_dict().items():
        name, _, own = key.rpartition(".")
        layer: Any = model.get_submodule(name)
        if key in tied:
            continue
        if _is_number(getattr(layer, "weight", tensor)):
            found[key] = tensor
        elif own == "weight":
            with torch.no_grad():
                weight = held.weights(layer).to(model.dtype)
            found[key] = (weight.T if hasattr(layer, "source_cls") else weight).contiguous()
        elif own == "bias":
            found[key] = tensor
    return found


def _is_number(tensor: torch.Tensor) -> bool:
    return not hasattr(tensor, "qdata") and tensor.is_floating_point() and tensor.element_size() > 1
