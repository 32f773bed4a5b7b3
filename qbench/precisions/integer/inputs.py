"""What linear layers see while a model reads windows, one transformer block after the other."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from transformers import PreTrainedModel


def in_blocks(layers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The layers by the block that they stand in: up to the first number in their names."""
    for _, group in groupby(layers.items(), key=lambda item: _block(item[0])):
        yield dict(group)


def run(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    see: Callable[[str, torch.Tensor], None],
) -> None:
    """Has the model read every window; `see` is given each layer's name and inputs."""
    import torch

    def hook(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        return lambda _, arguments: see(name, arguments[0].detach())

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for window in windows:
                model(input_ids=window, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def unreached(name: str) -> ModelError:
    """The error for a layer that has seen nothing, such as an expert that no token chose."""
    return ModelError(
        f"{name}: no window of the calibration text reached this layer; raise calibration_windows,"
        " or use a precision without calibration"
    )


def _block(name: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.up_proj`; empty for a layer outside any block."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])
