"""The work that memory and latency are measured on: a prefill, then decoding with a cache.

Token ids are fixed by a seed and lengths by the item, so that every cell does equal work; stop
tokens are ignored, and no token is chosen: the next input is the next fixed id.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

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
    prefill_chunk: int | None = None
    """Tokens of each sequence that one forward of prefill reads; all at once unless given."""

    def prefill(self, model: PreTrainedModel, cache: Any = None) -> Any:
        """Forwards over the prompt, logits of their last position only; returns the cache.

        One forward, or one a chunk, each on the cache that those before it left. It is the one
        given, which must be empty, or one that the model makes.
        """
        return prefill(model, self.prompt, cache, self.prefill_chunk).past_key_values

    def decode(self, model: Callable[..., Any], cache: Any) -> Any:
        """One forward a new token, each on the grown cache; returns the cache.

        `model` may be whatever is called as one.
        """
        for position in range(self.continuation.shape[1]):
            ids = self.continuation[:, position : position + 1]
            cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
        return cache


def prefill(
    model: PreTrainedModel, ids: torch.Tensor, cache: Any = None, chunk: int | None = None
) -> Any:
    """Reads ids (batch, tokens), at most `chunk` of each row in one forward; gives the last output.

    That has the logits of the last position, and the cache: the one given, which must be empty, or
    one that the model makes.
    """
    arguments = {"logits_to_keep": 1} if keeps_logits(model) else {}

    def read(part: torch.Tensor) -> Any:
        return model(input_ids=part, past_key_values=cache, use_cache=True, **arguments)

    tokens = ids.shape[1]
    chunk = chunk or tokens
    last = (tokens - 1) // chunk * chunk
    for start in range(0, last, chunk):
        cache = read(ids[:, start : start + chunk]).past_key_values
    return read(ids[:, last:])


def make_workload(model: PreTrainedModel, point: GridPoint, seed: int) -> Workload:
    """Random ids of the model's vocabulary, on its device."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    size = (point.batch, point.prompt_tokens + point.new_tokens)
    ids = torch.randint(vocabulary, size, generator=generator).to(model.device)
    prompt, continuation = ids[:, : point.prompt_tokens], ids[:, point.prompt_tokens :]
    return Workload(prompt, continuation, point.prefill_chunk)


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether the model can be asked for the logits of its last positions alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
