"""How much a model has to compute, by arithmetic from its sizes.

A multiplication and an addition count as two operations. Only products of matrices count: on any
model worth timing the rest is less than a hundredth. What is computed without need does not count:
scores that the causal mask hides, activations computed again under checkpointing. So the share of
the matrix rate is what PaLM calls model FLOPs utilisation (Chowdhery et al. 2022, appendix B), but
for the attention, which is counted there without its mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.predict.stated_shapes import decoder_shape

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from qbench.predict.shapes import DecoderShape, LayerSort

_TWO_PRODUCTS = 2
"""Of attention: queries with keys, and weights with values."""


@dataclass(frozen=True)
class Operations:
    """Operations of one forward pass, or of one training step, by what they are for."""

    blocks: int
    """Linear layers of the blocks."""
    attention: int
    head: int
    adapters: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.blocks + self.attention + self.head + self.adapters


def forward_operations(
    shape: DecoderShape, *, batch: int, tokens: int, head_tokens: int
) -> Operations:
    """One forward pass over `batch` sequences of `tokens`.

    `head_tokens`: positions of each sequence that logits are made for.
    """
    sorts = [shape.sort(layer) for layer in range(shape.layers)]
    width = shape.heads * shape.head_dim
    return Operations(
        blocks=2 * batch * tokens * sum(_weights(shape, sort) for sort in sorts),
        attention=2 * _TWO_PRODUCTS * batch * width * sum(_pairs(tokens, one) for one in sorts),
        head=2 * batch * head_tokens * shape.hidden * shape.vocabulary,
    )


def decode_operations(shape: DecoderShape, *, batch: int, prompt: int, new: int) -> Operations:
    """One token of each of `batch` sequences, on average over `new` ones after a prompt."""
    sorts = [shape.sort(layer) for layer in range(shape.layers)]
    width = shape.heads * shape.head_dim
    pairs = sum(_pairs(prompt + new, one) - _pairs(prompt, one) for one in sorts)
    return Operations(
        blocks=2 * batch * sum(_weights(shape, sort) for sort in sorts),
        attention=round(2 * _TWO_PRODUCTS * batch * width * pairs / new),
        head=2 * batch * shape.hidden * shape.vocabulary,
    )


def step_operations(
    shape: DecoderShape,
    *,
    sequences: int,
    tokens: int,
    adapted: Collection[str] | None = None,
    rank: int = 0,
) -> Operations:
    """Forward and backward passes of one training step over padded sequences.

    A backward pass takes a product for the gradient of each layer's inputs, and one for that of its
    weights where they are trained: all in full tuning (`adapted` None), else only those of the
    adapters of that rank on the layers of these last names (`q_proj`). Attention has no weights,
    but two inputs a product.
    """
    forward = forward_operations(shape, batch=sequences, tokens=tokens, head_tokens=tokens)
    if adapted is None:
        return Operations(3 * forward.blocks, 3 * forward.attention, 3 * forward.head)
    factors = sum(
        rank * (linear.inputs + linear.outputs)
        for name, linear in shape.linears.items()
        if name.rpartition(".")[2] in adapted
    )
    return Operations(
        blocks=2 * forward.blocks,
        attention=3 * forward.attention,
        head=2 * forward.head,
        adapters=3 * 2 * sequences * tokens * shape.layers * factors,
    )


def sizes_of(config: Mapping[str, Any]) -> tuple[DecoderShape | None, str | None]:
    """Sizes or, where they are not known, the reason.

    `config` is a transformers configuration as a dictionary.
    """
    shape, reason = decoder_shape(config)
    return shape, None if reason is None else reason.replace("activations", "operations")


def _pairs(tokens: int, sort: LayerSort) -> int:
    """Of a token and one that it sees, itself included."""
    seen = min(tokens, sort.window or tokens)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen


def _weights(shape: DecoderShape, sort: LayerSort) -> int:
    """Of the linear layers of one block that a token meets: of experts those it is sent to."""
    linears = shape.linears
    experts = shape.experts if sort.experts else None
    if experts is None:
        return sum(linear.inputs * linear.outputs for linear in linears.values())
    of_mlp = {"gate_proj", "up_proj", "down_proj"}
    attention = sum(
        linear.inputs * linear.outputs for name, linear in linears.items() if name not in of_mlp
    )
    router = experts.count * shape.hidden
    return attention + router + experts.chosen * 3 * shape.hidden * experts.intermediate
