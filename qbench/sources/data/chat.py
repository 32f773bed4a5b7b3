"""A conversation as a tokenizer's chat template writes it: what is asked, and what is answered."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from qbench.core.errors import TextError
from qbench.sources.data.template_limits import FAULTS, TemplateLimitError, within_limits

Message = dict[str, str]
Taken = Literal["asked", "answered", "bare"]
"""How prompt and completion follow from what the template writes.

- `asked`: the prompt is what asks for an answer, the completion what the answered turn adds.
- `answered`: the template writes an answered turn another way than one that is asked for, such as
  without the thinking block that it opens then. The answered turn is parted at the answer.
- `bare`: the answer is not found in the answered turn, and stands by itself behind what asks.
"""


class ChatTemplateError(Exception):
    """A chat template does not take the messages; the message says why."""


class ChatText(NamedTuple):
    """What a chat template makes of messages that end with an answer."""

    prompt: str
    completion: str
    """With what ends the turn, unless it is `bare`."""
    taken: Taken


def read_messages(messages: Any, place: str) -> list[Message]:
    """The messages with their role and content alone; raises `TextError` for what is none."""
    expected = "expected a list of messages, each with role and content; correct the row"
    if not isinstance(messages, list | tuple):
        found = "nothing" if messages is None else f"a value of type {type(messages).__name__}"
        raise TextError(f"{place}: found {found} under messages; {expected}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(part), str) for part in ("role", "content")
        ):
            raise TextError(
                f"{place}: message {number} has no text under role or content; {expected}"
            )
        for part in ("role", "content"):
            unicode_text(message[part], f"{place}: message {number}")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def unicode_text(text: str, place: str) -> str:
    """The text itself; raises `TextError` for one that no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"{place}: holds half of a surrogate pair, which no UTF-8 file can hold; write the"
            " whole character"
        ) from error
    return text


def write_chat(tokenizer: Any, before: list[Message], answer: Message, place: str) -> ChatText:
    """Parts what the tokenizer's template writes for the messages and the answer to them.

    Raises `TextError` for a tokenizer without a template, and for messages that it refuses.
    """
    asked = _apply(tokenizer, before, place, ask=True)
    whole = _apply(tokenizer, [*before, answer], place, ask=False)
    if whole.startswith(asked):
        return ChatText(asked, _without_last_break(whole[len(asked) :]), "asked")
    alike = (at for at, (one, other) in enumerate(zip(asked, whole, strict=False)) if one != other)
    start = next(alike, len(whole))
    for content in (answer["content"], answer["content"].strip()):
        # The answer may itself begin as what asks for it ends.
        if (at := max(whole.find(content, start), whole.rfind(content, 0, start))) >= 0:
            return ChatText(whole[:at], _without_last_break(whole[at:]), "answered")
    return ChatText(asked, _without_last_break(answer["content"]), "bare")


def _without_last_break(text: str) -> str:
    """What ends a turn, without the line breaks before the next."""
    return text.rstrip("\n")


def _apply(tokenizer: Any, messages: list[Message], place: str, *, ask: bool) -> str:
    if not tokenizer.chat_template:
        raise TextError(
            f"{place}: the recipe chat needs a chat template, and the model's tokenizer has none;"
            " save one with the tokenizer, or write a recipe with the templates prompt and"
            " completion"
        )
    try:
        return apply_chat_template(tokenizer, messages, ask=ask)
    except ChatTemplateError as error:
        raise TextError(
            f"{place}: the tokenizer's chat template does not take these messages ({error});"
            " correct the row, or leave it out"
        ) from error


def apply_chat_template(tokenizer: Any, messages: list[Message], *, ask: bool) -> str:
    """What the tokenizer's chat template makes of messages, within the limits of templates.

    `ask`: with what asks for an answer behind them. Raises `ChatTemplateError` with the template's
    own words.
    """
    from jinja2 import TemplateError

    try:
        text: str = within_limits(
            lambda: tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask
            )
        )
    except (TemplateError, TemplateLimitError, SyntaxError, *FAULTS) as error:
        raise ChatTemplateError(str(error)) from error
    return text
