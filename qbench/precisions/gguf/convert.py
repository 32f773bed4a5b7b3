"""A loaded model whose matrices are made into blocks, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.spec import TensorShape
from qbench.precisions.gguf.layers import hold_blocks, linear_class
from qbench.precisions.gguf.mixes import is_table
from qbench.precisions.gguf.quantize import to_blocks
from qbench.precisions.inventory import output_head
from qbench.precisions.plain_layers import plain_linear_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Matrix:
    """A linear layer, an embedding or the head, whatever its `weight` holds."""

    name: str
    """Of the layer."""
    layer: Any
    shape: TensorShape
    """Of its weight, named like it."""


def matrices(model: PreTrainedModel) -> list[Matrix]:
    """What can be held in blocks: each weight once, a tied one as the embedding that it is."""
    from torch import nn

    head: Any = output_head(model)
    embeddings = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)
    }
    found = [_matrix(name, one, "linear") for name, one in _linear_layers(model).items()]
    found += [_matrix(name, one, "embedding") for name, one in embeddings.items()]
    if head is not None and all(one.weight is not head.weight for one in embeddings.values()):
        name = next(name for name, module in model.named_modules() if module is head)
        found.append(_matrix(name, head, "head"))
    return [one for one in found if one.shape.role == "linear" or is_table(one.shape)]


def shapes_of_matrices(model: PreTrainedModel) -> list[TensorShape]:
    """Names and shapes of what can be held in blocks."""
    return [one.shape for one in matrices(model)]


def hold(layer: Any, kind: str | None) -> None:
    """Puts blocks of a type in the place of a linear layer's weight; None leaves it."""
    if kind is not None:
        hold_blocks(layer, _blocks(layer, kind), kind, layer.weight.dtype)


def hold_tables(model: PreTrainedModel, kinds: Mapping[str, str | None]) -> None:
    """Puts blocks in the place of the embedding and of the head, of types by their names."""
    for one in matrices(model):
        kind = kinds.get(one.shape.name)
        if one.shape.role != "linear" and kind is not None:
            place_table(model, one.layer, _blocks(one.layer, kind), kind)


def place_table(model: PreTrainedModel, table: Any, blocks: nn.Parameter, kind: str) -> None:
    """Has an embedding or a head hold blocks, and the head too that shares an embedding's."""
    head: Any = output_head(model)
    shared = head is not None and head is not table and head.weight is table.weight
    dtype = table.weight.dtype
    for one in (table, head) if shared else (table,):
        hold_blocks(one, blocks, kind, dtype)


def _blocks(layer: Any, kind: str) -> nn.Parameter:
    from torch import nn

    return nn.Parameter(to_blocks(layer.weight, kind), requires_grad=False)


def _linear_layers(model: PreTrainedModel) -> dict[str, Any]:
    head = output_head(model)
    held = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, linear_class()) and module is not head
    }
    return {**plain_linear_layers(model), **held}


def _matrix(name: str, layer: Any, role: Literal["linear", "embedding", "head"]) -> Matrix:
    from torch import nn

    if isinstance(layer, nn.Embedding):
        shape = (layer.num_embeddings, layer.embedding_dim)
    else:
        shape = (layer.out_features, layer.in_features)
    return Matrix(name, layer, TensorShape(name=f"{name}.weight", shape=shape, role=role))
