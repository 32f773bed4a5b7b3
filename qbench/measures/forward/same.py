"""Whether a way of running computes what the eager forward does, beside which attention ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from qbench.measures.forward.ways import Way
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.workload import Workload

APART = 0.1
"""Relative distance of logits beyond which they are not those of the same computation: rounding of
16-bit types moves them by about a hundredth."""


@dataclass(frozen=True)
class Sameness:
    """Greedy tokens of both, position by position after the same fixed ids, and last logits."""

    tokens: int
    same_tokens: int
    logits_apart: float
    """Distance of the last token's logits, divided by the length of the eager ones."""

    @property
    def details(self) -> dict[str, Any]:
        """For the record."""
        return {
            "tokens": self.tokens,
            "same_tokens": self.same_tokens,
            "logits_apart": self.logits_apart,
        }

    def warnings(self, forward: str) -> tuple[str, ...]:
        """That something else is computed, where it is."""
        if self.logits_apart <= APART:
            return ()
        warning = (
            f"{forward} computes something else than the eager forward: its logits of the last"
            f" token are {self.logits_apart:.0%} apart, {self.same_tokens} of {self.tokens} greedy"
            " tokens are the same; its times are of other work"
        )
        return (warning,)


def compare_with_eager(loaded: LoadedModel, workload: Workload, way: Way) -> Sameness:
    """Both over the whole workload."""
    import torch

    with torch.inference_mode():
        tokens, logits = _decoded(workload, loaded.model, loaded.new_cache(), loaded.model)
        others, other_logits = _decoded(workload, way.model, way.new_cache(), way.step)
    apart = torch.linalg.vector_norm(other_logits - logits)
    return Sameness(
        tokens=tokens.numel(),
        same_tokens=int((tokens == others).sum()),
        logits_apart=float(apart / torch.linalg.vector_norm(logits)),
    )


def _decoded(
    workload: Workload, model: Any, cache: Any, step: Callable[..., Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The greedy token after each new id, (batch, new_tokens), and the last one's logits."""
    import torch

    tokens: list[torch.Tensor] = []
    last: list[torch.Tensor] = []

    def watched(**arguments: Any) -> Any:
        output = step(**arguments)
        tokens.append(output.logits[:, -1].argmax(-1))
        last[:] = [output.logits[:, -1].float().clone()]  # a graph's output is overwritten
        return output

    workload.decode(watched, workload.prefill(model, cache))
    return torch.stack(tokens, dim=1), last[0]
