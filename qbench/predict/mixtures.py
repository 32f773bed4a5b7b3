"""What a new token reads of a model: of a mixture's experts only those that it is sent to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.finetune.targets import is_tied, token_embeddings
from qbench.predict.model_config import config_of
from qbench.sources.models.experts import experts_of

if TYPE_CHECKING:
    from qbench.core.spec import ModelShape, ResolvedModel

_EXPERTS = "experts"


@dataclass(frozen=True)
class Mixture:
    """A model with experts."""

    weights: int
    """Logical weights, all experts included."""
    of_experts: int
    count: int | None
    """Experts of a layer; None where the configuration does not say it."""
    chosen: int | None
    """How many of them a token is sent to; None as above."""
    unread: int
    """Weights of tables that are looked up, of which no token reads more than a row."""

    @property
    def read(self) -> int | None:
        """Weights that one new token reads; None where not known."""
        if self.count is None or self.chosen is None:
            return None
        return (
            self.weights - self.unread - self.of_experts * (self.count - self.chosen) // self.count
        )

    @property
    def words(self) -> str:
        """The same in a sentence's part."""
        share = f"{100 * self.of_experts / self.weights:.0f} % of them in experts"
        told = f"{self.weights:,} weights, {share}"
        if self.read is None:
            return f"{told}; how many a token reads its configuration does not say"
        return (
            f"{told}; a token reads {self.read:,} ({self.chosen} of {self.count} experts a layer)"
        )


def mixture_of(model: ResolvedModel) -> Mixture | None:
    """The model's experts; None of a model without any, or whose shapes are not known."""
    shape = model.shape
    if shape is None:
        return None
    of_experts = sum(tensor.numel for tensor in shape.tensors if _EXPERTS in tensor.name.split("."))
    if not of_experts:
        return None
    config, _ = config_of(model)
    count, chosen = experts_of(config or {})
    return Mixture(shape.weights, of_experts, count, chosen, looked_up(shape))


def looked_up(shape: ModelShape) -> int:
    """Weights of tables that are looked up; an embedding that is the head too is read whole."""
    tables = sum(tensor.numel for tensor in shape.tensors if tensor.role == "embedding")
    if is_tied(shape):
        tables -= sum(tensor.numel for tensor in token_embeddings(shape))
    return tables
