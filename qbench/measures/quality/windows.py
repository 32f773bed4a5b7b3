"""How a tokenized text is cut into windows and which of its tokens are scored, by protocol.

- `default`: non-overlapping windows of `window` tokens, `<s>` included where the model has one;
  every other token is scored, the last, shorter window too.
- `gptq-2048-nobos`: non-overlapping windows of 2048 with no `<s>`; every token but the first of
  each is scored; the rest of the text is dropped. As the GPTQ authors' script computes it
  (arXiv 2210.17323), whose figures most papers quote, but for the one `<s>` that some tokenizers
  put before the whole text there.
- `llamacpp-512-half`: windows of 512 whose first token is replaced by `<s>`, where the tokenizer
  puts one before a text (GPT-2's has one and does not); the second half is scored; the rest of the
  text is dropped. As llama.cpp's `perplexity` tool computes it.
- `strided`: windows that overlap by half and have no `<s>`; each scores what none before it did.
  As the guide "Perplexity of fixed-length models" of transformers cuts them; the mean is over
  tokens, where the guide's older form weighed windows.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

Protocol = Literal["default", "gptq-2048-nobos", "llamacpp-512-half", "strided"]

LLAMACPP: Protocol = "llamacpp-512-half"
FIXED_WINDOW: dict[str, int] = {"gptq-2048-nobos": 2048, LLAMACPP: 512}
"""Protocols that state their own window."""


DOCUMENTS = "window_document"
"""The series with the document of each window."""


@dataclass(frozen=True)
class Window:
    """One input of the model and the part of it that is scored."""

    ids: tuple[int, ...]
    first_scored: int
    """Index into `ids` of the first scored token; at least 1. All after it are scored."""
    text_end: int
    """Number of the text's tokens up to the end of this window."""

    @property
    def scored(self) -> int:
        """Number of scored tokens."""
        return len(self.ids) - self.first_scored


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int] | None]:
    """The text's ids with nothing added, and the character that each token ends at, if known."""
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    offsets = encoded.get("offset_mapping")
    return list(encoded["input_ids"]), None if offsets is None else [end for _, end in offsets]


def documents_of(
    windows: list[Window], ends: list[int] | None, starts: Sequence[int] | None
) -> dict[str, list[float]]:
    """The number of the document that most of each window's scored tokens are of, as a series.

    `ends` are the characters that the text's tokens end at, `starts` those that its documents begin
    at. Nothing where either is not known, or there is one document alone.
    """
    if ends is None or starts is None or len(starts) < 2:
        return {}
    found = []
    for window in windows:
        places = range(window.text_end - window.scored, window.text_end)
        count = Counter(bisect_right(starts, max(ends[at] - 1, 0)) - 1 for at in places)
        found.append(float(min(count, key=lambda one: (-count[one], one))))
    return {DOCUMENTS: found}


def ids_hash(windows: list[Window]) -> str:
    """sha256 of what is put to the model and which of it is scored."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(repr((window.first_scored, window.ids)).encode())
    return digest.hexdigest()


def cut_windows(
    tokens: list[int], protocol: Protocol, window: int, bos: int | None
) -> list[Window]:
    """Cuts a text's tokens (without any `<s>`) into windows with at least one scored token each."""
    if protocol == "default":
        cut = _default(tokens, window, bos)
    elif protocol == "gptq-2048-nobos":
        cut = _without_bos(tokens, window)
    elif protocol == "llamacpp-512-half":
        cut = _second_half(tokens, window, bos)
    else:
        cut = _strided(tokens, window)
    return [found for found in cut if found.scored > 0]


def _default(tokens: list[int], window: int, bos: int | None) -> list[Window]:
    head = () if bos is None else (bos,)
    span = window - len(head)
    return [
        Window((*head, *tokens[start : start + span]), 1, min(start + span, len(tokens)))
        for start in range(0, len(tokens), span)
    ]


def _without_bos(tokens: list[int], window: int) -> list[Window]:
    return [
        Window(tuple(tokens[start : start + window]), 1, start + window)
        for start in range(0, len(tokens) - window + 1, window)
    ]


def _second_half(tokens: list[int], window: int, bos: int | None) -> list[Window]:
    # llama.cpp tokenizes with <s> in front, so the text's own tokens are shifted by one.
    shift = 0 if bos is None else 1
    whole = tokens if bos is None else [bos, *tokens]
    found = []
    for start in range(0, len(whole) - window + 1, window):
        ids = whole[start : start + window]
        if bos is not None:
            ids[0] = bos
        found.append(Window(tuple(ids), window // 2 + 1, start + window - shift))
    return found


def _strided(tokens: list[int], window: int) -> list[Window]:
    stride = max(1, window // 2)
    found = []
    scored_to = 0
    for start in range(0, len(tokens), stride):
        end = min(start + window, len(tokens))
        found.append(Window(tuple(tokens[start:end]), max(1, scored_to - start), end))
        scored_to = end
        if end == len(tokens):
            break
    return found
