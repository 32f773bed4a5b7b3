"""Names of layers, blocks and kinds as pictures and sentences have room for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions.mixed.units import block_of

if TYPE_CHECKING:
    from collections.abc import Iterable

OUTSIDE = "outside"
"""Stands for the block of layers that lie in none."""


def short_names(units: Iterable[str]) -> dict[str, str]:
    """By name, the block's number with the layer's own name, such as `0 q_proj`.

    The whole name where that would be two units' or has nothing to leave out.
    """
    found = {name: _short(name) for name in units}
    times: dict[str, int] = {}
    for short in found.values():
        times[short] = times.get(short, 0) + 1
    return {name: short if times[short] == 1 else name for name, short in found.items()}


def place_of(layer: str) -> tuple[str, str]:
    """The number of a layer's block, and its kind; a block as a whole is its own kind."""
    block = block_of(layer)
    if block is None:
        return OUTSIDE, layer
    return block.rpartition(".")[2], "block" if block == layer else layer.rpartition(".")[2]


def _short(name: str) -> str:
    block = block_of(name)
    if block is None:
        return name
    number = block.rpartition(".")[2]
    return f"block {number}" if block == name else f"{number} {name.rpartition('.')[2]}"
