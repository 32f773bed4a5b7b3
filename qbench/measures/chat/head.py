"""Final states of prompt and answer, read in parts through the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.measures.quality.head import OutputHead

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from qbench.measures.quality.windows import Window


@dataclass(frozen=True)
class ReadingHead(OutputHead):
    """The prompt so many tokens at once, then the answer likewise, or token by token."""

    new_cache: Callable[[], Any]
    """Gives an empty cache; None for one that the model makes itself."""
    prefill_chunk: int | None
    """Tokens that one pass reads; all of the prompt, and all of the answer, if None."""
    decoded: bool
    """Whether the answer is read token by token."""

    def window_states(self, group: list[Window], ids: torch.Tensor) -> torch.Tensor:
        """As `OutputHead.states`, of windows whose prompts are equally long."""
        prompt, end = group[0].first_scored, ids.shape[1]
        step = self.prefill_chunk or end
        later = 1 if self.decoded else step
        ends = [*range(step, prompt, step), *range(prompt, end, later)]
        return self.states_in_parts(ids, ends, self.new_cache())
