"""Bits per weight of a model and of its parts: of what is loaded, and by arithmetic from shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import ModelShape, StaticBytes

Part: TypeAlias = Literal["model", "linear", "embeddings_and_head"]
_TABLES = ("embedding", "head")


@dataclass(frozen=True)
class LogicalWeights:
    """Weights as a checkpoint counts them: tied ones once, packed ones unpacked."""

    model: int
    linear: int
    """Of the linear layers, the output head apart."""
    embeddings_and_head: int


def weights_of(shape: ModelShape) -> LogicalWeights:
    """The weights of a model that is known by its shapes alone."""
    by_role: dict[str, int] = {}
    for tensor in shape.tensors:
        by_role[tensor.role] = by_role.get(tensor.role, 0) + tensor.numel
    return LogicalWeights(
        model=shape.weights,
        linear=by_role.get("linear", 0),
        embeddings_and_head=sum(by_role.get(role, 0) for role in _TABLES),
    )


def bits_per_weight(
    held: StaticBytes, weights: LogicalWeights, *, saved: float = 0.0, saved_in_experts: float = 0.0
) -> Mapping[Part, float | None]:
    """8 × bytes ÷ logical weights of each part; None for a part that has no weights.

    The quantization state is of the linear layers, which alone are held in codes. `saved` are the
    bytes by which the codes are fewer than those that are held, where they are packed;
    `saved_in_experts` those of them that are of no linear layer.
    """
    parts: dict[Part, tuple[float, int]] = {
        "model": (held.total - saved, weights.model),
        "linear": (
            held.linear + held.quantization_state - (saved - saved_in_experts),
            weights.linear,
        ),
        "embeddings_and_head": (held.embeddings_and_head, weights.embeddings_and_head),
    }
    return {
        part: 8 * taken / counted if counted else None for part, (taken, counted) in parts.items()
    }
