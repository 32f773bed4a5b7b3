"""Which linear layers are held in a format together, by their names alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


By = Literal["layer", "block", "kind"]
"""What is held together: each layer alone, those of a block, or those of one name."""


class Group(NamedTuple):
    """Layers that are held in one format together."""

    name: str
    layers: tuple[str, ...]


def groups_of(layers: Iterable[str], by: By) -> list[Group]:
    """The layers by themselves, by block or by kind, as they first occur.

    A layer outside of all blocks is a unit of its own. A kind has the layers' last name; where that
    stands in two places of a block, as GPT-2's `c_proj` does, there are two: `attn.c_proj` and
    `mlp.c_proj`.
    """
    every = list(layers)
    places: dict[str, set[str]] = {}
    for layer in every:
        places.setdefault(_last(layer), set()).add(_in_block(layer))
    found: dict[str, list[str]] = {}
    for layer in every:
        if by == "kind":
            name = _last(layer) if len(places[_last(layer)]) == 1 else _in_block(layer)
        else:
            name = layer if by == "layer" else block_of(layer) or layer
        found.setdefault(name, []).append(layer)
    return [Group(name, tuple(of_unit)) for name, of_unit in found.items()]


def _last(layer: str) -> str:
    return layer.rpartition(".")[2]


def _in_block(layer: str) -> str:
    """A layer's name within its block, without the numbers of experts: `mlp.experts.up_proj`."""
    block = block_of(layer)
    own = layer if block is None else layer.removeprefix(f"{block}.")
    return ".".join(part for part in own.split(".") if not part.isdecimal())


def block_of(layer: str) -> str | None:
    """The block that a layer lies in: `model.layers.3` of `model.layers.3.mlp.up_proj`.

    None for one outside of all blocks.
    """
    parts = layer.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdecimal()), None)
    return None if number is None else ".".join(parts[: number + 1])
