"""What linear layers see while a model reads windows."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from transformers import PreTrainedModel


def run(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    see: Callable[[str, torch.Tensor], None],
) -> None:
    """Has the model read every window; `see` is given each layer's name and inputs."""
    import torch

    with torch.no_grad(), seen_by(layers, see):
        for window in windows:
            model(input_ids=window, use_cache=False)


@contextmanager
def seen_by(layers: dict[str, Any], see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Tells `see` each layer's name and inputs whenever one of them runs."""

    def hook(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        return lambda _, arguments: see(name, arguments[0].detach())

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unreached(name: str) -> ModelError:
    """The error for a layer that has seen nothing, such as an expert that no token chose."""
    return ModelError(
        f"{name}: no window of the calibration text reached this layer; raise calibration_windows,"
        " or use a precision without calibration"
    )
