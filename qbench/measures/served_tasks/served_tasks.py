"""Scores of lm-eval's generative tasks, as a server of the model answers them.

The servers are those of `serving`: started for the item and ended with it, or at an address. What a
server computes is its own: its kernels, its batches, its tokenizer. Where it computes what the
model in this process does, a greedy task scores as it does under `tasks`.

Tasks that are scored by the likelihoods of given texts are refused: OpenAI's API gives none of a
prompt's tokens, and of the servers here that of transformers gives none at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from qbench.core.aliases import Also
from qbench.core.errors import TextError
from qbench.core.options import plain_options, typed_options
from qbench.core.reading import InvalidValueError, invalid_below
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.measures.measurement import Measurement
from qbench.measures.options import OneOrMoreText, not_empty
from qbench.measures.serving.options import Endpoint  # noqa: TC001 - pydantic reads it
from qbench.measures.serving.servers import SERVED_TASKS, ServerOptions, labels_misfit
from qbench.measures.tasks.definitions import likelihood_tasks
from qbench.measures.tasks.fit import thinking_misfit
from qbench.measures.tasks.naming import asked_of_task, files_of, named_tasks, packages_of
from qbench.measures.tasks.options import TaskOptions, TaskParams

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import Outcome, UnbuiltCell

METRICS = (
    MetricDefinition(
        name=f"{SERVED_TASKS}.*",
        unit="1",
        better="neither",
        title="task score, served",
        formula=f"{SERVED_TASKS}.<task>.<metric>: as `tasks.<task>.<metric>`, of what a server"
        " answered",
    ),
)
"""Stands for all, as that of `tasks`."""


class ServedTasksOptions(TaskOptions):
    """Options of `served_tasks`."""

    names: Annotated[OneOrMoreText, Also("tasks")] = ("stdlib-completion",)
    """Tasks, groups or tags that generate: the bundled one, those in `include`, and all that
    lm-eval has."""
    servers: Annotated[
        tuple[ServerOptions, ...],
        AfterValidator(not_empty),
        Field(json_schema_extra={"minItems": 1}),
    ] = (ServerOptions(engine="transformers"),)
    """What each cell is put behind: each has an `engine`, a `command` or an `address`."""
    endpoint: Endpoint = "completions"
    """`completions` gets the prompt as text, put into the chat template here where one is asked
    for; `chat` gets messages, which the server puts into its own, with `chat_template: true`."""
    concurrency: Annotated[PositiveInt, Also("num_concurrent")] = 1
    """Requests that are under way at once."""
    context: Annotated[PositiveInt | None, Also("max_model_len")] = None
    """Tokens that a server must have room for in a prompt and its answer; the model's own context
    unless given."""
    timeout: PositiveFloat = 600.0
    """Seconds that any one answer may take: then the item has failed."""

    @model_validator(mode="after")
    def _of_servers(self) -> Self:
        if self.endpoint == "chat" and not self.chat_template:
            expected = "`endpoint: chat` beside `chat_template: true`"
            found, remedy = "no chat template, which a server of chats has", "add it"
            raise invalid_below(("endpoint",), InvalidValueError(expected, found, remedy))
        if isinstance(self.think_end_token, int):
            expected, remedy = "a text such as </think>", "a server answers with text, not tokens"
            reason = InvalidValueError(expected, f"id {self.think_end_token}", remedy)
            raise invalid_below(("think_end_token",), reason)
        return self


class ServedTaskParams(TaskParams):
    """One task at one server, as it stands in its record."""

    model_config = ConfigDict(extra="forbid")

    server: ServerOptions
    endpoint: Endpoint
    concurrency: int
    context: int | None = None
    timeout: float


@dataclass(frozen=True)
class ServedTasks(Measurement):
    """How well a server of the model does what tasks ask."""

    name: str = SERVED_TASKS
    summary: str = "scores of lm-eval's generative tasks, as a server of the model answers them"
    needs: tuple[str, ...] = ("lm-eval", "tenacity")
    options: type[Frozen] = ServedTasksOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    by_default: bool = False
    apart: bool = True

    def needs_of(self, item: Item) -> tuple[str, ...]:
        """With the packages that the task's own Python begins with and that are not here."""
        return (*self.needs, *packages_of(typed_options(ServedTaskParams, item.params).task))

    def misfit(self, options: ServedTasksOptions, model: ResolvedModel) -> Problem | None:
        """Servers of one name; thinking that the chat template knows nothing of."""
        return labels_misfit(options.servers) or thinking_misfit(options, model)

    def items(self, options: ServedTasksOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a server and task; raises `TextError` for a task that a server cannot be put."""
        named, index = named_tasks(options, base)
        scored = [
            one for task in named for one in likelihood_tasks(task.params["task"].name, index)
        ]
        if scored:
            raise TextError(
                f"names: {', '.join(scored)}: scored by the likelihoods of given texts, which a"
                " server of OpenAI's API does not give of a prompt's tokens (vLLM's would, by echo"
                " and logprobs; qbench asks for none); take them with `tasks`, in qbench's own"
                " process"
            )
        more = {
            "endpoint": options.endpoint,
            "concurrency": options.concurrency,
            "timeout": options.timeout,
            **({} if options.context is None else {"context": options.context}),
        }
        return [
            Item(
                measurement=self.name,
                slug=f"{server.label}-{one.slug}",
                params={
                    **plain_options(TaskParams(**one.params)),
                    "server": plain_options(server),
                    **more,
                },
            )
            for server in options.servers
            for one in named
        ]

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The one task among them, at one server."""
        asked = asked_of_task(params, super().asked_as(params))
        return {**asked, "servers": params["server"]}

    def measure_apart(self, cell: UnbuiltCell, item: Item) -> Outcome:
        """Starts the server, puts every item of the task to it, ends the server."""
        from qbench.measures.served_tasks.taking import take  # with what a plan has no use for

        params = typed_options(ServedTaskParams, item.params)
        files = files_of(params.task, trust_code=bool(cell.job["trust_code"]))
        return take(params, cell, files)


SERVED = ServedTasks()
