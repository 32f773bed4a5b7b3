"""What a model makes of a prompt's end: the likelihood of the value, and what it writes itself.

The prompt is read once, then the value's tokens one by one through the KV cache, as they would be
decoded (teacher forcing). Where each of them is the likeliest, they are what greedy decoding
writes, step by step the same. Where one is not, the prompt is read again and the model writes by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.measures.generation.continuation import new_text, refuse_nonfinite
from qbench.measures.workload import prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qbench.measures.needle.haystack import Prompt

_CONTEXT_TOKENS = 8
"""Tokens of the prompt that a written text is decoded behind."""


@dataclass(frozen=True)
class Reader:
    """A model with all that its reading needs."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    new_cache: Callable[[], Any]
    """Gives an empty cache; None for one that the model makes itself."""
    stop_ids: Sequence[int]
    new_tokens: int
    """The most that it writes."""
    prefill_chunk: int | None = None
    """Tokens of a prompt that one forward reads; all at once unless given."""

    def read(self, group: Sequence[Prompt]) -> list[Reading]:
        """Of prompts whose ids, and whose answers, are equally many: they are read together.

        Raises `NonFiniteError` for logits that are no numbers.
        """
        import torch

        ids = torch.tensor([one.ids for one in group], device=self.model.device)
        answers = torch.tensor([one.answer for one in group], device=self.model.device)
        with torch.inference_mode():
            nll, likeliest = self._forced(ids, answers)
            texts = [f" {one.needle.value}" for one in group]
            if not all(likeliest):
                texts = self._written(ids)
        return [
            Reading(loss, top, f" {one.needle.value}" if top else text)
            for one, loss, top, text in zip(group, nll, likeliest, texts, strict=True)
        ]

    def _forced(self, ids: torch.Tensor, answers: torch.Tensor) -> tuple[list[float], list[bool]]:
        """Of each row the loss of its answer in nats, and whether each token is the likeliest."""
        import torch

        out = self._prefill(ids)
        nll = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
        likeliest = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        for step in range(answers.shape[1]):
            logits, wanted = self._logits(out, ids), answers[:, step]
            nll -= logits.double().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            likeliest &= logits.argmax(-1) == wanted
            if step + 1 < answers.shape[1]:
                out = self._next(out, wanted)
        return nll.tolist(), likeliest.tolist()

    def _written(self, ids: torch.Tensor) -> list[str]:
        """What each row goes on with, always the likeliest token, up to an end token."""
        import torch

        out, new = self._prefill(ids), []
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        stops = torch.tensor(list(self.stop_ids), dtype=torch.long, device=ids.device)
        for step in range(self.new_tokens):
            new.append(self._logits(out, ids).argmax(-1))
            ended |= torch.isin(new[-1], stops)
            if bool(ended.all()) or step + 1 == self.new_tokens:
                break
            out = self._next(out, new[-1])
        rows = torch.stack(new, dim=1).tolist()
        before = ids[:, -_CONTEXT_TOKENS:].tolist()
        return [
            new_text(self.tokenizer, prompt, self._up_to_end(row))
            for prompt, row in zip(before, rows, strict=True)
        ]

    def _up_to_end(self, ids: list[int]) -> list[int]:
        end = next((at for at, one in enumerate(ids) if one in self.stop_ids), len(ids))
        return ids[:end]

    def _prefill(self, ids: torch.Tensor) -> Any:
        return prefill(self.model, ids, self.new_cache(), self.prefill_chunk)

    def _next(self, out: Any, tokens: torch.Tensor) -> Any:
        return self.model(
            input_ids=tokens[:, None], past_key_values=out.past_key_values, use_cache=True
        )

    def _logits(self, out: Any, ids: torch.Tensor) -> torch.Tensor:
        """Of the last position, (rows, vocabulary), in fp32."""
        logits: torch.Tensor = out.logits[:, -1].to(ids.device).float()
        return refuse_nonfinite(ids, logits)


@dataclass(frozen=True)
class Reading:
    """What became of one needle."""

    nll: float
    """Of the value's tokens together, in nats."""
    likeliest: bool
    """Whether each of them is the likeliest, given those before it."""
    text: str
    """What the model writes; the value itself where `likeliest`."""
