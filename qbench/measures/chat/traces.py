"""Answers that the reference wrote to the prompts, kept beside its states for the other cells.

<cache>/states/<key of the reference's record>/traces.json
    {"prompts": [[id, …], …], "answers": [[id, …], …], "ended": [true, …]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qbench.measures.generation.continuation import Drawing, continue_prompt, find_stop_ids
from qbench.measures.quality.reference_states import kept_states
from qbench.measures.quality.windows import Window

if TYPE_CHECKING:
    from qbench.measures.chat.options import ChatParams
    from qbench.measures.loaded import LoadedModel

FILE = "traces.json"


@dataclass(frozen=True)
class Traces:
    """What was asked and what the reference answered, as token ids."""

    prompts: list[list[int]]
    answers: list[list[int]]
    """With the end token last, where the model ended."""
    ended: list[bool]
    """Whether an end token came before the limit of tokens or with it."""

    @property
    def windows(self) -> list[Window]:
        """Prompt and answer together, of which the answer is scored."""
        return [
            Window((*prompt, *answer), len(prompt), 0)
            for prompt, answer in zip(self.prompts, self.answers, strict=True)
        ]

    @property
    def text(self) -> str:
        """As the file holds them."""
        return json.dumps(asdict(self))


def make_traces(
    loaded: LoadedModel, prompts: list[list[int]], params: ChatParams
) -> tuple[Traces, list[str]]:
    """The model's answers to the prompts, one after another; and their texts."""
    tokenizer = loaded.tokenizer
    stop_ids = find_stop_ids(loaded.model, tokenizer)
    made = [
        continue_prompt(
            loaded.model,
            tokenizer,
            ids,
            new_tokens=params.new_tokens,
            stop_ids=stop_ids,
            cache=loaded.new_cache(),
            # Each has a seed of its own: those after it are the same if one is left out.
            drawing=Drawing(params.temperature, params.seed + at) if params.temperature else None,
            prefill_chunk=params.prefill_chunk,
        )
        for at, ids in enumerate(prompts)
    ]
    traces = Traces(prompts, [one.new_ids for one in made], [one.ended for one in made])
    return traces, [one.text for one in made]


def read_traces(key: str) -> Traces:
    """What the reference left; raises `MeasurementError` where it is not there or damaged."""
    path = kept_states(key).with_name(FILE)
    return Traces(**json.loads(path.read_text(encoding="utf-8")))
