"""The work that memory and latency are measured on: a prefill, then decoding with a cache.

Token ids are fixed by a seed and lengths by the item, so that every cell does equal work; stop
tokens are ignored, and no token is chosen: the next input is the next fixed id.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import Problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.predict.work import GridPoint


@dataclass(frozen=True)
class Workload:
    """Fixed inputs for one point of a grid."""

    prompt: torch.Tensor
    """(batch, prompt_tokens) ids."""
    continuation: torch.Tensor
    """(batch, new_tokens) ids."""

    def prefill(self, model: PreTrainedModel, cache: Any = None) -> Any:
        """One forward over the prompt, logits of its last position only; returns the cache.

        It is the one given, which must be empty, or one that the model makes.
        """
        arguments = {"logits_to_keep": 1} if keeps_logits(model) else {}
        return model(
            input_ids=self.prompt, past_key_values=cache, use_cache=True, **arguments
        ).past_key_values

    def decode(self, model: PreTrainedModel, cache: Any) -> Any:
        """One forward a new token, each on the grown cache; returns the cache."""
        for position in range(self.continuation.shape[1]):
            ids = self.continuation[:, position : position + 1]
            cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
        return cache


def make_workload(model: PreTrainedModel, point: GridPoint, seed: int) -> Workload:
    """Random ids of the model's vocabulary, on its device."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    size = (point.batch, point.prompt_tokens + point.new_tokens)
    ids = torch.randint(vocabulary, size, generator=generator).to(model.device)
    return Workload(ids[:, : point.prompt_tokens], ids[:, point.prompt_tokens :])


MOST_POINTS = 10_000
"""Points of a grid, their repeats counted, for one cell."""


def too_many(options: Any) -> Problem | None:
    """What is wrong with a grid of too many points; None with any other."""
    points = len(options.batch) * len(options.prompt_tokens) * len(options.new_tokens)
    if points * options.repeats <= MOST_POINTS:
        return None
    found = f"a grid of {points} points, {options.repeats} times each"
    return Problem("batch", found, f"at most {MOST_POINTS} together", "shorten the lists")


def misfit(
    prompt_tokens: tuple[int, ...], new_tokens: tuple[int, ...], context: int | None, model: str
) -> Problem | None:
    """Which length does not fit into the model's context; None if all do."""
    longest = max(prompt_tokens) + max(new_tokens)
    if context is None or longest <= context:
        return None
    return Problem(
        "prompt_tokens",
        f"{max(prompt_tokens)} with {max(new_tokens)} new tokens",
        f"at most {context} together, the context of {model}",
        f"set prompt_tokens to at most {max(1, context - max(new_tokens))}",
    )


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether the model can be asked for the logits of its last positions alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
