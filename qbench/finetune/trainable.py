"""What a method makes of a loaded model: something to train, and a way to save it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch


@dataclass(frozen=True)
class Trainable:
    """A model whose weights that require a gradient, and no others, are to be trained."""

    model: Any
    """Called as a transformers model is: it may be one, or PEFT's wrapper around one."""
    save: Callable[[Path], None]
    """Saves what was trained into an empty folder, as the method's library does."""


def trained_weights(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights that are trained, by name; what is tied stands once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def gpus_of(model: torch.nn.Module) -> tuple[str, ...]:
    """The GPUs that a model's weights lie on, as torch names them; none on a CPU."""
    places = {weight.device for weight in model.parameters()}
    return tuple(sorted(str(place) for place in places if place.type == "cuda"))


def count_trained(model: torch.nn.Module) -> int:
    """Number of weights that are trained."""
    return sum(weight.numel() for weight in trained_weights(model).values())
