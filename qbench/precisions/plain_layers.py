"""The layers of a loaded model that a format can hold in codes, and others in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.inventory import output_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import PreTrainedModel


def plain_linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Every plain linear layer but the head, by name.

    One of a model's own class multiplies in its own way, which nothing else may know.
    """
    from torch import nn

    head = output_head(model)
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    }


def replace_linear(model: PreTrainedModel, make: Callable[[nn.Linear], nn.Linear]) -> None:
    """Puts what `make` makes of each plain linear layer but the head in its place.

    GPT-2's `Conv1D` layers become linear ones first. The new layer takes on the old one's bias
    itself; whether its checkpoint has the weight the other way round stays known.
    """
    replace_conv1d(model)
    for name, layer in plain_linear_layers(model).items():
        made: Any = make(layer)
        if hasattr(layer, "source_cls"):
            made.source_cls = layer.source_cls
        made.train(layer.training)
        _put(model, name, made)


def replace_conv1d(model: PreTrainedModel) -> None:
    """Puts a linear layer of the same weights in place of each of GPT-2's `Conv1D`.

    Quantization knows linear layers alone. `source_cls` tells that the checkpoint's weight is the
    other way round, as bitsandbytes' layers do.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if not isinstance(module, Conv1D):
            continue
        inputs, outputs = module.weight.shape
        made: Any = torch.nn.Linear(inputs, outputs, bias=False, device="meta")
        made.weight = torch.nn.Parameter(module.weight.data.T.contiguous(), requires_grad=False)
        made.bias = module.bias
        made.source_cls = Conv1D
        made.train(module.training)
        _put(model, name, made)


def _put(model: PreTrainedModel, name: str, layer: nn.Module) -> None:
    place, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(place), own_name, layer)
