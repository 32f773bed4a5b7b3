"""Single layers of a model held in a format, and put back as they were."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from qbench.precisions import options_of, precisions
from qbench.precisions.inventory import inventory
from qbench.precisions.mixed.view import View
from qbench.precisions.plain_layers import convertible_layers, put_in_place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.spec import PrecisionRef


@dataclass(frozen=True)
class HeldLayer:
    """A layer in a format."""

    module: nn.Module
    bytes: int
    """Codes and quantization state, without the bias."""
    changed: bool
    """Whether it is other than the plain layer: one that the format's groups do not divide is
    not."""


def hold(model: PreTrainedModel, name: str, ref: PrecisionRef) -> HeldLayer:
    """A copy of one of the model's plain layers, held in a format; the model stays as it is."""
    import torch

    layer = model.get_submodule(name)
    # Not in inference mode: some libraries make tensors that count their changes.
    with torch.inference_mode(mode=False), torch.no_grad():
        plain: Any = _copy(layer)
        weight = plain.weight
        made = precisions()[ref.name].hold_layer(name, plain, options_of(ref))
        held = plain if made is None else made
        changed = not (
            type(held) is torch.nn.Linear
            and held.weight is weight
            and torch.equal(weight, _plain_weight(layer))
        )
    with in_place(model, {name: held}):
        return HeldLayer(held, _bytes(model, name), changed)


def fault_of(model: PreTrainedModel, names: Collection[str], ref: PrecisionRef) -> str | None:
    """What is wrong with layers that are in place in a format, verified as those of a cell are."""
    import torch

    view = cast("PreTrainedModel", View(model, names))
    with torch.inference_mode(mode=False), torch.no_grad():
        found = precisions()[ref.name].verify(view, options_of(ref))
    return found.faults[0] if found.faults else None


@contextmanager
def in_place(model: PreTrainedModel, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model with other layers in place of some of its own, which are there again afterwards."""
    own = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            put_in_place(model, name, layer, of=own[name])
        yield
    finally:
        for name, layer in own.items():
            put_in_place(model, name, layer, of=layer)


@contextmanager
def watching_inputs(
    model: PreTrainedModel, names: Iterable[str]
) -> Iterator[dict[str, torch.Tensor]]:
    """Collects what each of the layers is given at first while the model runs."""
    found: dict[str, torch.Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            found.setdefault(name, args[0])

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def output_error(plain: Any, held: Any, inputs: torch.Tensor) -> float | None:
    """Frobenius norm of what the outputs differ by, over that of the plain layer's.

    None where these are all zero, or either has what is no number.
    """
    wanted = plain(inputs).double()
    norm = float(wanted.norm())
    error = float((held(inputs).double() - wanted).norm())
    return error / norm if norm and math.isfinite(error) and math.isfinite(norm) else None


def weights_of(model: PreTrainedModel) -> dict[str, int]:
    """Logical weights of each layer that a format can hold alone, without its bias."""
    return {name: int(layer.weight.numel()) for name, layer in _convertible(model)}


def _convertible(model: PreTrainedModel) -> Iterable[tuple[str, Any]]:
    return convertible_layers(model).items()


def _plain_weight(layer: Any) -> torch.Tensor:
    """The weight of a plain layer, (out, in)."""
    from torch import nn

    weight: torch.Tensor = layer.weight
    return weight if isinstance(layer, nn.Linear) else weight.T


def _copy(layer: Any) -> nn.Linear:
    """A plain linear layer with weights and bias of its own."""
    import torch

    outputs, inputs = _plain_weight(layer).shape
    made: Any = torch.nn.Linear(inputs, outputs, bias=False, device="meta")
    weight = _plain_weight(layer).detach().clone(memory_format=torch.contiguous_format)
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        made.bias = torch.nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    made.eval()
    linear: nn.Linear = made
    return linear


def _bytes(model: PreTrainedModel, name: str) -> int:
    return sum(
        held.tensor.numel() * held.tensor.element_size()
        for held in inventory(model)
        if (held.module == name or held.module.startswith(f"{name}."))
        and held.kind in {"linear", "quantization_state"}
    )
