"""Plain numbers in the place of codes: what any program loads, without what the codes save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.layer_weights import is_number
from qbench.precisions.plain_layers import is_transposed
from qbench.precisions.writing.form import CheckpointForm, save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.precisions.precision import Precision

NUMBERS = "numbers"
_TOLERANCE = 0.02
_INEXACT = (
    "a plain layer multiplies weights that are rounded to the model's type, and rounds a sum after"
    " it has added the bias; libraries of codes may do either otherwise"
)


def numbers_form(held: Precision, options: Any) -> CheckpointForm | None:
    """None where numbers would compute something else than its codes."""
    if not held.is_all_in_weights(options):
        return None

    def write(model: PreTrainedModel, folder: Path) -> None:
        save_checkpoint(model, folder, tensors=_as_numbers(model, held))

    return CheckpointForm(
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
    own_tensors = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    found: dict[str, Any] = {}
    for key, tensor in model.state_dict().items():
        if key in tied or key not in own_tensors:  # of a library's own, such as scales
            continue
        name, _, own = key.rpartition(".")
        layer: Any = model.get_submodule(name)
        if is_number(getattr(layer, "weight", tensor)):
            found[key] = tensor
        elif own == "weight":
            with torch.no_grad():
                weight = held.weights(layer).to(model.dtype)
            found[key] = (weight.T if is_transposed(layer) else weight).contiguous()
        elif own == "bias":
            found[key] = tensor
    return found
