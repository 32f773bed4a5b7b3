"""What a suite may say of `chat`, and what an item holds of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from qbench.core.aliases import Also
from qbench.core.spec import Frozen
from qbench.measures.options import OneOrMoreLengths, PrefillChunk
from qbench.sources.data.prompts import ResolvedPrompts
from qbench.sources.data.texts import ResolvedText

DOCUMENT = "bundled:stdlib-heldout"
"""What fills the prompts up where a suite names no text."""


class ChatOptions(Frozen):
    """Options of `chat`."""

    prompts: (
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    ) = "bundled:stdlib-chat"
    """As of `generation`: `bundled:<name>`, a `.jsonl` file (`{"messages": [{"role": "user",
    "content": …}]}` or `{"prompt": …}` a line), a `.txt` file (a prompt a line), or a list."""
    count: Annotated[PositiveInt, Also("num_prompts")] = 40
    """Take the first so many of the prompts, or all if there are fewer; fewer than 20 decide
    nothing."""
    new_tokens: Annotated[PositiveInt, Also("max_new_tokens", "max_tokens")] = 128
    """Tokens of an answer, unless the reference ends before."""
    chat_template: Annotated[bool | Literal["auto"], Also("apply_chat_template")] = "auto"
    """Whether the prompts are put by the tokenizer's chat template; `auto`: where it has one."""
    temperature: NonNegativeFloat = 0.0
    """At which the reference draws its answers; at 0 it takes the likeliest token each time."""
    seed: NonNegativeInt = 0
    """Of what is drawn."""
    prompt_tokens: Annotated[OneOrMoreLengths | None, Also("input_len", "n_prompt")] = None
    """Fill each prompt up to as many tokens with a part of `context_text` before it; `context` for
    as many as the model's own context leaves. Of a list, those beyond it are skipped. Prompts are
    as they are unless given."""
    context_text: str | None = None
    """The text whose parts fill the prompts up: `bundled:<name>`, a file, or a known data set;
    `bundled:stdlib-heldout` unless given."""
    prefill_chunk: PrefillChunk = None
    """Read so many tokens at once, each on the KV cache of those before: less memory."""
    decoded: bool = False
    """Read the answers token by token through the KV cache, as they are written, in place of one
    pass. Cells with a quantized KV cache are measured so alone."""


class ChatParams(Frozen):
    """What one item scores, as it stands in its record."""

    text: ResolvedPrompts
    """The prompts, by this name as a text: where they lie is no part of a record's identity."""
    count: int
    new_tokens: int
    chat_template: bool | Literal["auto"]
    batch: int
    """Answers at once."""
    divergence: bool = True
    temperature: float = 0.0
    seed: int = 0
    prompt_tokens: int | None = None
    document: ResolvedText | None = None
    """What fills the prompts up."""
    prefill_chunk: int | None = None
    decoded: bool = False
    against: Literal["merged"] | None = None
    """Of a tuned cell: compared with the same tuning merged in 16 bits, not with the reference."""
