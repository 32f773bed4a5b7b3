"""What a block's linear layers see, summed up: products and sizes of their inputs' columns.

Layers that read the very same tensor one after the other (query, key and value; gate and up) have
one sum for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.precisions.integer.inputs import unreached

if TYPE_CHECKING:
    import torch


@dataclass
class Sums:
    """Of all inputs x of some layers."""

    products: torch.Tensor
    """x·xᵀ, (in, in) in fp32: what GPTQ calls the Hessian, but for a factor."""
    sizes: torch.Tensor
    """|x|, (in,) in fp32."""
    count: int
    """Inputs."""


class Moments:
    """The sums of each layer that a window reached, by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Sums] = {}
        self._first: dict[str, str] = {}
        self._last: tuple[str, torch.Tensor] | None = None

    def add(self, name: str, inputs: torch.Tensor) -> None:
        """What a layer sees of one window, its columns last."""
        first = self._first.setdefault(name, self._reader(name, inputs))
        if first != name:
            return
        self._last = (name, inputs)  # kept, so that no other tensor can lie in its place
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        made = Sums(rows.T @ rows, rows.abs().sum(0), len(rows))
        before = self._sums.get(name)
        if before is None:
            self._sums[name] = made
            return
        before.products += made.products
        before.sizes += made.sizes
        before.count += made.count

    def of(self, name: str) -> Sums:
        """The sums of one layer; raises `ModelError` where no window reached it."""
        if name not in self._first:
            raise unreached(name)
        return self._sums[self._first[name]]

    def sharing(self) -> list[list[str]]:
        """The layers in the order in which they were reached, those of the same inputs together."""
        groups: dict[str, list[str]] = {}
        for name, first in self._first.items():
            groups.setdefault(first, []).append(name)
        return list(groups.values())

    def _reader(self, name: str, inputs: torch.Tensor) -> str:
        """The layer before, if it read the same tensor; else this one."""
        if self._last is None:
            return name
        before, tensor = self._last
        same = tensor.data_ptr() == inputs.data_ptr() and tensor.shape == inputs.shape
        return before if same and tensor.stride() == inputs.stride() else name
