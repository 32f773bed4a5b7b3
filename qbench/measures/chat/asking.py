"""The prompts as token ids: in the chat template where there is one, behind a document if asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError
from qbench.measures.generation.continuation import check_prompts, encode
from qbench.measures.quality.windows import tokenize
from qbench.sources.data.texts import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qbench.measures.chat.options import ChatParams
    from qbench.measures.loaded import LoadedModel
    from qbench.sources.data.prompts import Prompt


@dataclass(frozen=True)
class Asked:
    """What a model is asked."""

    ids: list[list[int]]
    chat: bool
    """Whether a chat template put it."""
    warnings: tuple[str, ...] = ()


def ask(prompts: list[Prompt], params: ChatParams, loaded: LoadedModel) -> Asked:
    """Each prompt's ids; raises `MeasurementError` for one that the model cannot be asked."""
    tokenizer = loaded.tokenizer
    chat = params.chat_template
    if chat == "auto":
        chat = bool(tokenizer.chat_template)
    warnings: tuple[str, ...] = ()
    if params.prompt_tokens is None or params.document is None:
        encoded = [encode(tokenizer, prompt, chat=chat) for prompt in prompts]
    else:
        text = read_text(params.document)
        filler = _Filler(tokenizer, text, params.document.name, params.prompt_tokens, chat=chat)
        encoded = [filler.fill(prompt, at) for at, prompt in enumerate(prompts)]
        warnings = filler.warnings(len(prompts))
    check_prompts(encoded, loaded, params.new_tokens)
    return Asked(encoded, chat, warnings)


class _Filler:
    """Puts a part of a text before each prompt, up to a number of tokens in all."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str, name: str, room: int, *, chat: bool
    ) -> None:
        self._tokenizer, self._text, self._name = tokenizer, text, name
        self._room, self._chat = room, chat
        self._tokens, self._ends = tokenize(tokenizer, text)
        if len(self._tokens) < room:
            raise MeasurementError(
                f"text {name} has {len(self._tokens)} tokens: too short to fill a prompt of {room};"
                " give a longer context_text or fewer prompt_tokens"
            )

    def fill(self, prompt: Prompt, at: int) -> list[int]:
        """The ids of prompt number `at`, at most as many as there is room for, and hardly fewer."""
        ids = encode(self._tokenizer, prompt, chat=self._chat)
        start = at % self._parts * self._room
        size = self._room - len(ids)
        if size < 0:
            raise MeasurementError(
                f"prompt {at + 1} has {len(ids)} tokens by itself; expected at most"
                f" {self._room}, the prompt_tokens; shorten it, or raise prompt_tokens"
            )
        # Tokens at the seams may join others, so that the whole has a few more or less.
        while size > 0:
            filled = _behind(prompt, self._part(start, start + size))
            found = encode(self._tokenizer, filled, chat=self._chat)
            if len(found) <= self._room:
                return found
            size -= len(found) - self._room
        return ids

    def warnings(self, prompts: int) -> tuple[str, ...]:
        """That prompts share a document, where they do."""
        if prompts <= self._parts:
            return ()
        told = (
            f"text {self._name} has {self._parts} parts of {self._room} tokens: of {prompts}"
            " prompts some stand behind the same part; give a longer context_text"
        )
        return (told,)

    @property
    def _parts(self) -> int:
        return len(self._tokens) // self._room

    def _part(self, first: int, end: int) -> str:
        if self._ends is None:
            part: str = self._tokenizer.decode(self._tokens[first:end])
            return part
        return self._text[self._ends[first - 1] if first else 0 : self._ends[end - 1]]


def _behind(prompt: Prompt, document: str) -> Prompt:
    """The prompt with a document before it: of a conversation within its first user's message."""
    text = f"{document}\n\n{prompt.text}"
    if not prompt.messages:
        return replace(prompt, text=text)
    messages = list(prompt.messages)
    roles = [message["role"] for message in messages]
    at = roles.index("user") if "user" in roles else len(roles) - 1
    messages[at] = {**messages[at], "content": f"{document}\n\n{messages[at]['content']}"}
    return replace(prompt, text=text, messages=tuple(messages))
