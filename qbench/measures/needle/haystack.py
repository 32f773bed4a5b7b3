"""Prompts of a stated number of tokens: a stretch of a text with a needle in it, and the question.

The whole prompt is tokenized as one text, as a person's would be, and the haystack's end is moved
until that has the stated number of tokens. Tokens merge where two parts meet, as they would for a
person: a count of the parts by themselves would not be that of the whole. Where no end gives the
number, the prompt is shorter by the few tokens that are lacking, and never longer.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError
from qbench.measures.generation.continuation import as_asked, encode_text
from qbench.sources.data import prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from qbench.measures.needle.words import Needle

_PLACE = "[[the text stands here]]"
"""In the place of the haystack while a chat template writes what stands around it."""
_LINES = re.compile(r"\n+|(?<=[.!?])\s+|(?<=[。！？])")
"""Ends of lines and sentences, which a needle is put behind."""
_WORDS = re.compile(r"\s+")
"""Where none of these is near."""
_NEAR = 0.025
"""Share of the haystack that a needle may be moved by to stand behind a line or a sentence."""
_TRIES = 32
_CHARACTERS_A_TOKEN = 4.0
"""To begin with."""
_GUESSES = 3
"""After as many, the haystack's size is known well enough to choose the needle's place in it."""


@dataclass(frozen=True)
class Prompt:
    """What is put to the model for one needle."""

    needle: Needle
    ids: tuple[int, ...]
    answer: tuple[int, ...]
    """The tokens of the value, as they follow the prompt's."""
    depth: float
    """Percent of the haystack's characters that stand before the needle."""
    characters: int
    """Of the haystack, less the needle."""


@dataclass(frozen=True)
class _Frame:
    """The text around a haystack."""

    tokenizer: PreTrainedTokenizerBase
    before: str
    after: str
    chat: bool

    def ids(self, haystack: str, answer: str = "") -> list[int]:
        """Of the whole text."""
        return encode_text(
            self.tokenizer, f"{self.before}{haystack}{self.after}{answer}", chat=self.chat
        )


def make_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, needle: Needle, tokens: int, *, chat: bool
) -> Prompt:
    """A prompt of `tokens` tokens, or of the few fewer that can be reached.

    Raises `MeasurementError` where the question and the needle alone are longer, and for a chat
    template that does not take them.
    """
    frame = _frame(tokenizer, needle, chat=chat)
    fixed = len(frame.ids(_with_needle("", needle, 0)))
    if fixed > tokens:
        raise MeasurementError(
            f"a prompt of {tokens} tokens has no room for a haystack: the needle and the question"
            f" alone are {fixed} under this model's tokenizer; give greater lengths"
        )
    source = _Source(text, needle.start)
    size = _first_size(frame, source, needle, tokens, fixed)
    wanted = needle.depth / 100
    at = None if wanted == 1 else _break_near(source.first(size), wanted)

    def ids_of(size: int) -> list[int]:
        place = size if at is None else min(at, size)
        return frame.ids(_with_needle(source.first(size), needle, place))

    size, ids = _fitted(ids_of, size, tokens)
    place = size if at is None else min(at, size)
    whole = frame.ids(_with_needle(source.first(size), needle, place), f" {needle.value}")
    # Where the last token of the prompt would merge with the value, it is no part of the prompt.
    shared = next((i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), len(ids))
    return Prompt(
        needle,
        tuple(whole[:shared]),
        tuple(whole[shared:]),
        depth=100 * place / size if size else needle.depth,
        characters=size,
    )


def _frame(tokenizer: PreTrainedTokenizerBase, needle: Needle, *, chat: bool) -> _Frame:
    prompt = prompts.Prompt(f"{needle.before}\n{_PLACE}\n{needle.question}")
    asked = as_asked(tokenizer, prompt, chat=chat)
    before, place, after = asked.partition(_PLACE)
    if not place or _PLACE in after:
        raise MeasurementError(
            "the tokenizer's chat template does not write a user's message once and as it is; set"
            " chat_template: false, or fix the template"
        )
    begins = "" if chat else "\n"
    return _Frame(tokenizer, before, f"{after}{begins}{needle.begun}", chat)


@dataclass(frozen=True)
class _Source:
    """A text without an end: it begins again where it ends."""

    text: str
    start: float

    def first(self, characters: int) -> str:
        """So many characters from the line on that the start lies in."""
        text = self.text if self.text.endswith("\n") else f"{self.text}\n"
        at = text.rfind("\n", 0, int(self.start * len(text))) + 1
        times = (at + characters) // len(text) + 1
        return (text * times)[at : at + characters]


def _with_needle(haystack: str, needle: Needle, place: int) -> str:
    """The haystack with the needle as a line of its own."""
    before, after = haystack[:place], haystack[place:]
    first = "" if not before or before.endswith("\n") else "\n"
    last = "\n" if after and not after.startswith("\n") else ""
    return f"{before}{first}{needle.sentence}{last}{after}"


def _break_near(haystack: str, share: float) -> int:
    """The character that a needle stands before, so that this share is in front of it.

    The end of a line or a sentence that is near, else of a word; the very place in a text without.
    """
    wanted = round(share * len(haystack))
    if wanted == 0:
        return 0
    for kind, near in ((_LINES, _NEAR), (_WORDS, 1.0)):
        ends = [found.end() for found in kind.finditer(haystack)]
        nearest = min(ends, key=lambda end: abs(end - wanted), default=None)
        if nearest is not None and abs(nearest - wanted) <= near * len(haystack):
            return nearest
    return wanted


def _first_size(frame: _Frame, source: _Source, needle: Needle, tokens: int, fixed: int) -> int:
    """About how many characters of the text fill the prompt."""
    size = int((tokens - fixed) * _CHARACTERS_A_TOKEN)
    for _ in range(_GUESSES):
        found = len(frame.ids(_with_needle(source.first(size), needle, 0))) - fixed
        if found < 1:
            return size
        size = int(size * (tokens - fixed) / found)
    return size


def _fitted(ids_of: Callable[[int], list[int]], size: int, tokens: int) -> tuple[int, list[int]]:
    """The size of a haystack that gives so many tokens, with these; else the most below.

    Begins with a guess, goes by what a token has been long so far, and halves what is left where
    that leads out of it.
    """
    best = (0, ids_of(0))
    low, high = 0, 2 * size + tokens
    for _ in range(_TRIES):
        if not low < size < high:
            size = (low + high) // 2
            if size in (low, high):
                break
        ids = ids_of(size)
        lacking = tokens - len(ids)
        if lacking >= 0 and len(ids) > len(best[1]):
            best = (size, ids)
        if lacking == 0:
            break
        low, high = (size, high) if lacking > 0 else (low, size)
        step = lacking * size / len(ids)
        size += math.ceil(step) if lacking > 0 else math.floor(step)
    return best
