"""What a suite says of tasks, and what of it an item keeps."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from qbench.core.aliases import Also
from qbench.core.reading import InvalidValueError, expects, invalid_below
from qbench.core.spec import Frozen
from qbench.measures.options import OneOrMoreText, Repeats
from qbench.measures.tasks.generation_arguments import check_generation

OWN_METADATA = ("tokenizer", "pretrained", "model")
"""What tasks that make their own data load a tokenizer from, with the Python that lies there."""


def _check_form(value: object) -> object:
    fields = value.values() if isinstance(value, dict) else [value]
    if value is None or all(isinstance(field, str) and field for field in fields):
        return value
    raise InvalidValueError(
        "a field of the documents such as passage_id, or a mapping of tasks to such fields"
    )


def _check_metadata(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name in OWN_METADATA:
            expected = "metadata that qbench does not give itself"
            raise InvalidValueError(expected, f"`{name}`", "leave it out: it is the cell's own")
    return given


class TaskOptions(Frozen):
    """Options of `tasks` and of `served_tasks`."""

    names: Annotated[OneOrMoreText, Also("tasks")] = ("stdlib-choice", "stdlib-completion")
    """Tasks, groups or tags: the bundled ones, those in `include`, and all that lm-eval has."""
    include: Annotated[str | None, Also("include_path")] = None
    """A folder with task YAML files of your own; its path starts at the suite's folder. Python that
    they name runs only with the suite's `trust_code: true`."""
    limit: PositiveInt | None = None
    """Only the first so many items of each task."""
    few_shot: Annotated[NonNegativeInt | None, Also("num_fewshot")] = None
    """Worked examples before each item; the task's own number unless given."""
    chat_template: Annotated[bool, Also("apply_chat_template")] = False
    """Whether prompts are put as a conversation, by the tokenizer's template."""
    fewshot_as_multiturn: bool | None = None
    """Whether worked examples are turns of their own in that conversation, as they are unless
    given, or all stand in one turn."""
    system_prompt: Annotated[
        str | None, Also("system_instruction"), expects("a text", min_length=1)
    ] = None
    """Goes before each item: as the conversation's system message, without a chat template as plain
    text."""
    thinking: Annotated[bool | None, Also("enable_thinking")] = None
    """Whether the chat template has the model think first; the template's own way unless given."""
    think_end_token: Annotated[
        str | NonNegativeInt | None, expects("a text such as </think>, or a token's id")
    ] = None
    """What ends a thought: what is written up to it is left out before the answer is read."""
    gen_kwargs: Annotated[
        dict[str, Any],
        AfterValidator(check_generation),
        expects("a mapping such as {temperature: 0.6, do_sample: true, max_gen_toks: 2048}"),
    ] = Field(default_factory=dict)
    """How answers are generated, over what the tasks say themselves: of tasks that generate."""
    metadata: Annotated[
        dict[str, Any],
        AfterValidator(_check_metadata),
        expects("a mapping such as {max_seq_lengths: [4096, 8192]}"),
    ] = Field(default_factory=dict)
    """What tasks that make their own data are told, such as the lengths of RULER's."""
    repeats: Repeats = 1
    """Times that each task is taken, with a seed of torch's of its own each time; scores are means
    over them. It is for answers that are sampled."""
    cluster: Annotated[str | dict[str, str] | None, BeforeValidator(_check_form)] = None
    """What items share that belong together, so that intervals draw them together: a field of the
    documents such as `passage_id`, of all tasks or by the task's name; `task` for each task of a
    group; `item` for none. Unless given, passages that lm-eval's own tasks are known to hold, and
    the tasks of a group of 20 or more."""
    seed: NonNegativeInt | None = None
    """For examples and whatever else a task draws; the `lm_eval` command's own unless given."""

    @model_validator(mode="after")
    def _of_conversations(self) -> Self:
        """What means something in a conversation alone is refused without one."""
        for name in ("fewshot_as_multiturn", "thinking"):
            if getattr(self, name) is not None and not self.chat_template:
                expected = f"`{name}` beside `chat_template: true`"
                found, remedy = "no chat template, which is what it says", "add it, or remove this"
                raise invalid_below((name,), InvalidValueError(expected, found, remedy))
        if self.think_end_token == "":
            expected = "a text such as </think>, or a token's id"
            raise invalid_below(
                ("think_end_token",), InvalidValueError(expected, "an empty text", "remove it")
            )
        if self.thinking and self.think_end_token is None:
            expected = "the key `think_end_token` beside `thinking: true`"
            found, remedy = "nothing that tells where a thought ends", "such as </think>"
            raise invalid_below(("thinking",), InvalidValueError(expected, found, remedy))
        return self


class TasksOptions(TaskOptions):
    """Options of `tasks`."""

    batch: Annotated[PositiveInt, Also("batch_size")] = 4
    """Requests at once: the same in every cell, since neighbours change LLM.int8's outliers."""


class ResolvedTask(Frozen):
    """A task, or a group with a score of its own, that was found."""

    name: str
    location: str | None
    """The user's own folder that it, or a member of it, comes from; None if none does."""
    fingerprint: str
    """sha256 of its files, less data on the hub."""


class TaskParams(Frozen):
    """What one item puts to the model, as it stands in its record.

    Options that came later are absent where they are at their default, as in earlier records.
    """

    model_config = ConfigDict(extra="ignore")

    task: ResolvedTask
    limit: int | None
    few_shot: int | None
    batch: int = 1
    chat_template: bool
    seeds: tuple[int, ...]
    """Of Python, NumPy, torch and the choice of examples."""
    cluster: str | None = None
    """As the suite names it."""
    fewshot_as_multiturn: bool | None = None
    system_prompt: str | None = None
    thinking: bool | None = None
    think_end_token: str | int | None = None
    gen_kwargs: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    repeats: int = 1

    @property
    def multiturn(self) -> bool:
        """Whether worked examples are turns of their own, as the `lm_eval` command has it."""
        own = self.fewshot_as_multiturn
        return self.chat_template if own is None else own

    def seeds_of(self, repeat: int) -> tuple[int, ...]:
        """The seeds of one repeat: torch's alone is another, so that the items stay the same."""
        python, numpy, torch, examples = self.seeds
        return python, numpy, torch + repeat, examples
