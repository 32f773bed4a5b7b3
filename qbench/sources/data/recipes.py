"""How a row of instruction data becomes a prompt and the completion to learn.

All recipes but `chat` are two Jinja templates over the row's columns, the suite's own and those
with a name alike. They run in a sandbox: a suite is data, not a program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError

from qbench.core.errors import TextError
from qbench.core.names import what_there_is
from qbench.core.spec import Frozen
from qbench.sources.data.chat import Taken, read_messages, unicode_text, write_chat
from qbench.sources.data.rows import JsonRow
from qbench.sources.data.template_limits import FAULTS, TemplateLimitError, within_limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

RecipeName = Literal["instruction", "reverse-instruction", "chat", "text"]
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)

ROW = "row"
"""In a template, the whole row: for columns whose names are no identifiers."""


class Templates(Frozen):
    """A recipe of the suite's own: Jinja templates over the columns of the data."""

    prompt: str
    """Jinja template of what the model is given, such as `{{ question }}`."""
    completion: Annotated[str, Field(min_length=1)]
    """Jinja template of what it learns to write after it."""
    scores: tuple[Annotated[str, Field(min_length=1)], ...] = (
        "exact_match",
        "rouge",
        "chrf",
        "bleu",
    )
    """What generated completions are scored by, as under `scores` of generation."""


_TEMPLATES: dict[str, Templates] = {
    # The prompts of Stanford Alpaca's train.py, to the letter.
    "instruction": Templates(
        prompt=(
            "{% if input is defined and input %}"
            "Below is an instruction that describes a task, paired with an input that provides"
            " further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{{ instruction }}\n\n### Input:\n{{ input }}\n\n### Response:"
            "{% else %}"
            "Below is an instruction that describes a task. Write a response that appropriately"
            " completes the request.\n\n"
            "### Instruction:\n{{ instruction }}\n\n### Response:"
            "{% endif %}"
        ),
        completion="{{ output }}",
    ),
    "reverse-instruction": Templates(
        prompt=(
            "### Instruction:\nUse the Input below to create an instruction, which could have been"
            " used to generate the Input using an LLM.\n\n### Input:\n{{ output }}\n\n"
            "### Response:\n"
        ),
        completion="{{ instruction }}",
    ),
    "text": Templates(prompt="", completion="{{ text }}"),
}
_CHAT_FORM = "its tokens alone"
"""Changes when other token ids follow from the same messages and the same tokenizer."""
_COLUMNS = {
    "instruction": "instruction and output, and perhaps input",
    "reverse-instruction": "instruction and output",
    "chat": "messages",
    "text": "text",
}


def _check_recipe(value: object) -> object:
    """Says in words what is wrong, which the errors of a union do not."""
    if isinstance(value, Templates) or value in RECIPE_NAMES:
        return value
    expected = f"one of {', '.join(RECIPE_NAMES)}, or a mapping with the Jinja templates prompt and"
    if not isinstance(value, dict):
        raise ValueError(f"{expected} completion")  # noqa: TRY004 - pydantic reads ValueErrors
    try:
        templates = Templates.model_validate(value)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(str(step) for step in detail["loc"])
        raise ValueError(f"{expected} completion; `{key}`: {detail['msg']}") from error
    for key in ("prompt", "completion"):
        if (fault := _syntax_error(value[key])) is not None:
            raise ValueError(f"a valid Jinja template under {key} ({fault})")
    return templates


Recipe = Annotated[
    RecipeName | Templates,
    BeforeValidator(_check_recipe, json_schema_input_type=RecipeName | Templates),
]
"""A recipe as a suite names it, or writes it out."""


@dataclass(frozen=True)
class Rendered:
    """What a row gives."""

    key: str
    """What it asks: rows with the same key, white space aside, must not be in two splits."""
    prompt: str
    completion: str
    """Empty for a row that has nothing to learn."""
    taken: Taken | None = None
    """Of a chat that was written by a template: where the two come from."""


def recipe_text(recipe: RecipeName | Templates) -> list[str]:
    """Everything that the texts follow from beside the rows."""
    templates = _TEMPLATES.get(recipe) if isinstance(recipe, str) else recipe
    return ["chat", _CHAT_FORM] if templates is None else [templates.prompt, templates.completion]


def render(
    recipe: RecipeName | Templates, row: Mapping[str, Any], place: str, tokenizer: Any | None = None
) -> Rendered:
    """Turns a row into a prompt and a completion.

    `chat` without a tokenizer gives the messages before the last answer as they are, and that
    answer; with one, what its chat template writes. Raises `TextError`, which begins with `place`,
    for a row that the recipe cannot take.
    """
    if recipe == "chat":
        return _render_chat(row, place, tokenizer)
    templates = _TEMPLATES[recipe] if isinstance(recipe, str) else recipe
    prompt = unicode_text(_fill(templates.prompt, recipe, row, place), place)
    completion = unicode_text(_fill(templates.completion, recipe, row, place), place)
    return Rendered(
        key=prompt if prompt.strip() else completion,
        prompt=prompt,
        # Nothing but white space is nothing to learn; else it stays as it is written.
        completion=completion if completion.strip() else "",
    )


@cache
def _environment(*, of_json: bool = False) -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=_written_as_json if of_json else _written,
        keep_trailing_newline=True,
        autoescape=False,  # the text goes to a model, not into a page
    )


@cache
def _compiled(template: str, *, of_json: bool) -> Template:
    return _environment(of_json=of_json).from_string(template)


def _written(value: Any) -> Any:
    """What a template may write: a missing value is empty, and no container is meant as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, dict | list | tuple | bytes):
        raise TypeError(f"it writes a whole {type(value).__name__}, not text; name a part of it")
    return value


def _written_as_json(value: Any) -> Any:
    """The same for rows of a JSON file, which writes its truths another way than Python."""
    return str(value).lower() if isinstance(value, bool) else _written(value)


def _syntax_error(template: str) -> str | None:
    from jinja2 import TemplateSyntaxError

    try:
        within_limits(lambda: _compiled(template, of_json=False))
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    # Python compiles it too, and nests less deep than Jinja does.
    except (TemplateLimitError, SyntaxError, *FAULTS) as error:
        return str(error)
    return None


def _fill(template: str, recipe: RecipeName | Templates, row: Mapping[str, Any], place: str) -> str:
    from jinja2 import TemplateError, UndefinedError

    def fill() -> str:
        # Compiling computes what is constant, and so belongs within the limits too.
        compiled = _compiled(template, of_json=isinstance(row, JsonRow))
        return compiled.render({ROW: dict(row), **row})

    try:
        return within_limits(fill)
    except UndefinedError as error:
        raise TextError(f"{place}: {_missing(template, recipe, row, error)}") from error
    except (TemplateError, TemplateLimitError, *FAULTS) as error:
        raise TextError(
            f"{place}: the recipe's template {_shortened(template)!r} cannot be filled in"
            f" ({error}); there are the columns {', '.join(row)}; correct the template"
        ) from error


def _missing(
    template: str, recipe: RecipeName | Templates, row: Mapping[str, Any], error: Exception
) -> str:
    """Which columns a template asks for that the data does not have."""
    from jinja2 import meta

    found = f"found the columns {', '.join(row) or 'none'}"
    if isinstance(recipe, str):
        return (
            f"{found}; the recipe {recipe} needs {_COLUMNS[recipe]}; rename them, or write a recipe"
            " with the templates prompt and completion"
        )
    environment = _environment()
    asked = meta.find_undeclared_variables(environment.parse(template))
    missing = sorted(asked - {*row, ROW, *environment.globals})
    if not missing:
        return f"the recipe asks for what is not there ({error}); {found}; correct the template"
    return (
        f"the recipe asks for {', '.join(missing)}, but {found};"
        f" {what_there_is(missing[0], row)}; correct the template"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _render_chat(row: Mapping[str, Any], place: str, tokenizer: Any | None) -> Rendered:
    if "messages" not in row:
        raise TextError(f"{place}: {_missing('', 'chat', row, KeyError('messages'))}")
    messages = read_messages(row["messages"], place)
    last = max(
        (at for at, message in enumerate(messages) if message["role"] == "assistant"), default=None
    )
    if last is None or not messages[last]["content"].strip():
        return Rendered(key="", prompt="", completion="")
    before, answer = messages[:last], messages[last]
    asked = repr([(message["role"], message["content"]) for message in before])
    key = asked if before else answer["content"]
    if tokenizer is None:
        return Rendered(key=key, prompt=asked, completion=answer["content"])
    written = write_chat(tokenizer, before, answer, place)
    return Rendered(
        key=key, prompt=written.prompt, completion=written.completion, taken=written.taken
    )
