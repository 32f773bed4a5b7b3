"""Layers that hold GGUF's blocks as bytes and make weights of them whenever they compute."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.precisions.gguf.layouts import AT_ONCE, decode
from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn


@cache
def linear_class() -> type[nn.Linear]:
    """A linear layer whose `weight` is its blocks: uint8, (out, bytes of a row)."""
    from torch import nn

    class GgufLinear(nn.Linear):
        """Multiplies with weights that it makes of its blocks."""

        kind: str
        """Type of the blocks, such as `Q4_K`."""

        @property
        def logical_weights(self) -> int:
            """Weights that the blocks stand for."""
            return self.in_features * self.out_features

        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as torch names it
            """The product with the weights in the type of the inputs."""
            return _product(self, input)

    return GgufLinear


@cache
def embedding_class() -> type[nn.Embedding]:
    """An embedding whose `weight` is its blocks: uint8, (entries, bytes of a row)."""
    from torch import nn

    class GgufEmbedding(nn.Embedding):
        """Makes the rows that it returns of their blocks."""

        kind: str
        made_in: torch.dtype
        """Type of what it returns."""

        @property
        def logical_weights(self) -> int:
            """Weights that the blocks stand for."""
            return self.num_embeddings * self.embedding_dim

        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as torch names it
            """The rows of some ids."""
            return decode(self.weight[input], self.kind).to(self.made_in)

    return GgufEmbedding


def hold_blocks(layer: Any, blocks: nn.Parameter, kind: str, dtype: torch.dtype) -> None:
    """Has a linear layer or an embedding hold these blocks instead of its weight, in place.

    An embedding of a model's own class, such as one that scales what it returns, stays one.
    """
    from torch import nn

    own = type(layer)
    layer.weight = blocks
    layer.kind = kind
    if not isinstance(layer, nn.Embedding):
        layer.__class__ = linear_class()
        return
    held: Any = layer
    held.made_in = dtype
    # The own class's `super().forward` is then that of the embedding that holds blocks.
    mixed = (own, embedding_class())
    held.__class__ = embedding_class() if own is nn.Embedding else type(own.__name__, mixed, {})


def holds_blocks(layer: Any) -> bool:
    """Whether a layer holds blocks."""
    return isinstance(layer, (linear_class(), embedding_class()))


def own_weight(layer: Any, rows: slice = slice(None)) -> torch.Tensor:
    """Rows of the weights by the definition of their type, (rows, in), in fp32."""
    return decode(layer.weight[rows], layer.kind)


def package_weight(layer: Any, rows: slice = slice(None)) -> torch.Tensor:
    """The same as the package gguf dequantizes them."""
    import torch
    from gguf import GGMLQuantizationType, dequantize

    held = layer.weight[rows].cpu().numpy()
    made: torch.Tensor = torch.from_numpy(dequantize(held, GGMLQuantizationType[layer.kind]))
    return made.to(layer.weight.device)


def block_fault(layer: Any) -> str | None:
    """What is wrong with the bytes that a layer holds, if anything is."""
    import torch
    from torch import nn

    width = layer.embedding_dim if isinstance(layer, nn.Embedding) else layer.in_features
    rows = layer.num_embeddings if isinstance(layer, nn.Embedding) else layer.out_features
    expected = (rows, BY_NAME[layer.kind].row_bytes(width))
    if layer.weight.dtype != torch.uint8 or tuple(layer.weight.shape) != expected:
        found = "×".join(map(str, layer.weight.shape))
        return (
            f"holds {found} of {layer.weight.dtype} where {expected[0]}×{expected[1]} bytes of"
            f" {layer.kind} were expected"
        )
    return None


def _product(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Inputs times the layer's weights in their type, some output rows at a time, and its bias."""
    from torch.nn import functional

    def part(rows: slice) -> torch.Tensor:
        weight = decode(layer.weight[rows], layer.kind).to(inputs.dtype)
        return functional.linear(inputs, weight, None if layer.bias is None else layer.bias[rows])

    first, *others = _slices(layer.weight, layer.in_features)
    if not others:
        return part(first)
    made = inputs.new_empty(*inputs.shape[:-1], layer.out_features)
    for rows in (first, *others):
        made[..., rows] = part(rows)
    return made


def _slices(weight: torch.Tensor, width: int) -> Iterator[slice]:
    step = max(1, AT_ONCE // width)
    for start in range(0, len(weight), step):
        yield slice(start, min(start + step, len(weight)))
