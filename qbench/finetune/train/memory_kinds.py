"""What a training holds besides activations, by kind, from the tensors themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.precisions.inventory import inventory

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


@dataclass(frozen=True)
class KindBytes:
    """Bytes by kind; a storage counts once, for the first kind that holds it."""

    base_weights: int
    """The base's parameters as stored (packed codes of quantized layers), and its buffers."""
    quantization_state: int
    """Block maxima, scales and code tables."""
    adapters: int
    """Weights that the method put beside the base's."""
    gradients: int
    optimizer_state: int
    """Moments, step counts and code tables; what is paged out of the device's memory too."""

    @property
    def total(self) -> int:
        """All kinds together."""
        return (
            self.base_weights
            + self.quantization_state
            + self.adapters
            + self.gradients
            + self.optimizer_state
        )


def bytes_by_kind(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> KindBytes:
    """What model, gradients and optimizer hold now; ask before the gradients are dropped."""
    sizes = dict.fromkeys(KindBytes.__dataclass_fields__, 0)
    seen: set[int] = set()
    for kind, tensor in _tensors_by_kind(model, optimizer):
        storage = tensor.untyped_storage()
        if storage.nbytes() > 0 and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes[kind] += storage.nbytes()
    return KindBytes(**sizes)


def held_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[torch.Tensor]:
    """All tensors that `bytes_by_kind` counts, as they are now."""
    return (tensor for _, tensor in _tensors_by_kind(model, optimizer))


def _tensors_by_kind(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for held in inventory(model):
        named = held.kind if held.kind in {"quantization_state", "adapters"} else "base_weights"
        yield named, held.tensor
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield "gradients", parameter.grad
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                yield "optimizer_state", value
