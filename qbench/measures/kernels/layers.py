"""The sizes of a model's linear layers: what is alike is timed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.precisions.inventory import holds_codes, module_bytes
from qbench.precisions.layer_probe import device_of
from qbench.precisions.mixed.layers import member_name
from qbench.precisions.verification import linear_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

ROTATED_BYTES = 2**28
"""Of layers that take turns while one size is timed, at least, where the model has as many: no
device's caches hold that, so that weights come from where they come from in a model."""
_EXPERTS = "experts"
"""Above the layers of a mixture that see their own share of the rows each."""


@dataclass(frozen=True)
class LayerSize:
    """Linear layers of one size that hold their weights alike."""

    label: str
    """`4096x1024` for 4096 outputs of 1024 inputs; with a number behind where others are as large
    but held otherwise."""
    outputs: int
    inputs: int
    bias: bool
    held_bytes: int
    """Of one layer: weights or codes, their state, bias."""
    names: tuple[str, ...]
    layers: tuple[Any, ...]

    @property
    def count(self) -> int:
        """How many layers of the model are such."""
        return len(self.layers)

    @property
    def coded(self) -> bool:
        """Whether the layers hold codes, rather than floating weights."""
        return has_codes(self.layers[0])

    @property
    def turning(self) -> tuple[Any, ...]:
        """The layers that take turns while the size is timed."""
        return self.layers[: self.turns(self.held_bytes)]

    def turns(self, layer_bytes: int) -> int:
        """How many layers of so many bytes take turns: at most as many as the model has."""
        return min(self.count, math.ceil(ROTATED_BYTES / max(1, layer_bytes)))

    def traffic_bytes(self, rows: int, item_bytes: int) -> int:
        """Bytes that one call has to move: what the layer holds, its inputs and its outputs."""
        return self.held_bytes + rows * (self.inputs + self.outputs) * item_bytes

    def operations(self, rows: int) -> int:
        """Operations of one call; a multiplication and an addition are two."""
        return 2 * rows * self.inputs * self.outputs


def layer_sizes(model: PreTrainedModel) -> list[LayerSize]:
    """The sizes of a model's linear layers, without head and experts, as they first occur."""
    held = module_bytes(model)
    alike: dict[tuple[Any, ...], list[tuple[str, Any]]] = {}
    for name, layer in linear_layers(model):
        if _EXPERTS in name.split("."):
            continue
        size = (*features(layer), getattr(layer, "bias", None) is not None, held[name])
        held_in = type(getattr(layer, "weight", None))
        how = (str(device_of(layer)), type(layer), held_in, member_name(layer))
        alike.setdefault((*size, *how), []).append((name, layer))
    made: list[LayerSize] = []
    for (outputs, inputs, bias, held_bytes, *_), found in alike.items():
        same = sum((one.outputs, one.inputs) == (outputs, inputs) for one in made)
        made.append(
            LayerSize(
                label=f"{outputs}x{inputs}{f'-{same + 1}' if same else ''}",
                outputs=outputs,
                inputs=inputs,
                bias=bias,
                held_bytes=held_bytes,
                names=tuple(name for name, _ in found),
                layers=tuple(layer for _, layer in found),
            )
        )
    return made


def features(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, or of a Conv1D, which calls them otherwise."""
    if hasattr(layer, "nf"):
        return int(layer.nf), int(layer.weight.shape[0])
    return int(layer.out_features), int(layer.in_features)


def has_codes(layer: Any) -> bool:
    """Whether what a layer holds are codes, or bytes, rather than floating weights."""
    weight = getattr(layer, "weight", None)
    if weight is None or holds_codes(layer):
        return True
    if hasattr(weight, "tensor_data_names") or getattr(weight, "quant_state", None) is not None:
        return True
    return not weight.is_floating_point() or weight.element_size() == 1


def total(sizes: Sequence[LayerSize], each: Sequence[float]) -> float:
    """The sum over all layers of the model of a figure that each size has."""
    return sum(size.count * figure for size, figure in zip(sizes, each, strict=True))
