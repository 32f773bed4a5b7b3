"""The layers of a loaded model that a format can hold in codes, and others in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.inventory import output_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D


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


def convertible_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The same, with GPT-2's `Conv1D` layers, which can become linear ones (`as_linear`)."""
    from transformers.pytorch_utils import Conv1D

    head = output_head(model)
    conv1d = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Conv1D) and module is not head
    }
    return {**plain_linear_layers(model), **conv1d}


def replace_linear(model: PreTrainedModel, make: Callable[[nn.Linear], nn.Linear]) -> None:
    """Puts what `make` makes of each plain linear layer but the head in its place.

    GPT-2's `Conv1D` layers become linear ones first. The new layer takes on the old one's bias
    itself; whether its checkpoint has the weight the other way round stays known.
    """
    replace_conv1d(model)
    for name, layer in plain_linear_layers(model).items():
        put_in_place(model, name, make(layer), of=layer)


def replace_conv1d(model: PreTrainedModel) -> None:
    """Puts a linear layer of the same weights in place of each of GPT-2's `Conv1D`."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            put_in_place(model, name, as_linear(module), of=module)


def as_linear(layer: Conv1D) -> nn.Linear:
    """A linear layer with the weights of a `Conv1D`, which has them the other way round.

    Quantization knows linear layers alone. `source_cls` tells how the checkpoint has the weight, as
    bitsandbytes' layers do.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    inputs, outputs = layer.weight.shape
    made: Any = torch.nn.Linear(inputs, outputs, bias=False, device="meta")
    made.weight = torch.nn.Parameter(layer.weight.data.T.contiguous(), requires_grad=False)
    made.bias = layer.bias
    made.source_cls = Conv1D
    linear: nn.Linear = made
    return linear


def is_transposed(layer: Any) -> bool:
    """Whether the checkpoint has the layer's weight the other way round."""
    from transformers.pytorch_utils import Conv1D

    return getattr(layer, "source_cls", None) is Conv1D


def put_in_place(
    model: PreTrainedModel, name: str, layer: nn.Module, *, of: nn.Module
) -> nn.Module:
    """Puts a layer in place of another; how its checkpoint has the weight stays known."""
    made: Any = layer
    if hasattr(of, "source_cls"):
        made.source_cls = of.source_cls
    made.train(of.training)
    place, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(place), own_name, made)
    return layer
