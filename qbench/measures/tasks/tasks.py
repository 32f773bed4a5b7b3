"""Scores of lm-eval's tasks, item by item, on the model that is already loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import MeasurementError, TextError
from qbench.core.names import did_you_mean
from qbench.core.options import plain_options, typed_options
from qbench.core.paths import written_path
from qbench.core.reading import InvalidValueError
from qbench.core.spec import Frozen, Item, slugify
from qbench.measures.measurement import Measurement
from qbench.measures.options import OneOrMoreText
from qbench.measures.tasks.index import (
    bundled_tasks,
    fingerprint,
    known_tasks,
    read_folder,
    scored_names,
    unreadable_files,
    yaml_files_of,
)
from qbench.measures.tasks.results import METRICS, make_outcome
from qbench.measures.tasks.run import COMMAND_SEEDS, run_task
from qbench.measures.untrusted_code import REMEDY, code_of_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel, Outcome
    from qbench.measures.tasks.index import Index


def _check_form(value: object) -> object:
    fields = value.values() if isinstance(value, dict) else [value]
    if value is None or all(isinstance(field, str) and field for field in fields):
        return value
    raise InvalidValueError(
        "a field of the documents such as passage_id, or a mapping of tasks to such fields"
    )


class TasksOptions(Frozen):
    """Options of `tasks`."""

    names: Annotated[OneOrMoreText, Also("tasks")] = ("stdlib-choice", "stdlib-completion")
    """Tasks, groups or tags: the bundled ones, those in `include`, and all that lm-eval has."""
    include: Annotated[str | None, Also("include_path")] = None
    """A folder with task YAML files of your own; its path starts at the suite's folder. Python that
    they name runs only with the suite's `trust_code: true`."""
    limit: PositiveInt | None = None
    """Only the first so many items of each task."""
    few_shot: Annotated[NonNegativeInt | None, Also("num_fewshot")] = None
    """Worked examples before each item; the task's own number unless given."""
    batch: Annotated[PositiveInt, Also("batch_size")] = 4
    """Requests at once: the same in every cell, since neighbours change LLM.int8's outliers."""
    chat_template: Annotated[bool, Also("apply_chat_template")] = False
    """Whether prompts are put as a conversation, by the tokenizer's template."""
    cluster: Annotated[str | dict[str, str] | None, BeforeValidator(_check_form)] = None
    """What items share that belong together, so that intervals draw them together: a field of the
    documents such as `passage_id`, of all tasks or by the task's name; `task` for each task of a
    group; `item` for none. Unless given, passages that lm-eval's own tasks are known to hold, and
    the tasks of a group of 20 or more."""
    seed: NonNegativeInt | None = None
    """For examples and whatever else a task draws; the `lm_eval` command's own unless given."""


class ResolvedTask(Frozen):
    """A task, or a group with a score of its own, that was found."""

    name: str
    location: str | None
    """The user's own folder that it, or a member of it, comes from; None if none does."""
    fingerprint: str
    """sha256 of its files, less data on the hub."""


class TaskParams(Frozen):
    """What one item puts to the model, as it stands in its record."""

    task: ResolvedTask
    limit: int | None
    few_shot: int | None
    batch: int
    chat_template: bool
    seeds: tuple[int, ...]
    """Of Python, NumPy, torch and the choice of examples."""
    cluster: str | None = None
    """As the suite names it; absent where it does not."""


@dataclass(frozen=True)
class Tasks(Measurement):
    """How well the model does what tasks ask."""

    name: str = "tasks"
    summary: str = "scores of lm-eval's tasks, item by item; two tasks are bundled"
    needs: tuple[str, ...] = ("lm-eval",)
    options: type[Frozen] = TasksOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: TasksOptions, model: ResolvedModel) -> None:
        """Any task can be put to any model."""

    def items(self, options: TasksOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a task or group with a score of its own; of other groups, one a member.

        Raises `TextError` for a name that is not known, or a folder that is not there.
        """
        folder = _own_folder(options.include, base)
        index = known_tasks(options.names, folder)
        unknown = [name for name in options.names if name not in index]
        if unknown:
            raise TextError("; ".join(_describe_unknown(name, index, folder) for name in unknown))
        chosen = dict.fromkeys(one for name in options.names for one in scored_names(name, index))
        _check_clusters(options, (*chosen, *options.names))
        seeds = COMMAND_SEEDS if options.seed is None else (options.seed,) * len(COMMAND_SEEDS)
        return [
            Item(
                measurement=self.name,
                slug=_slug(name, options),
                params=plain_options(
                    TaskParams(
                        task=_resolve(name, index, folder),
                        limit=options.limit,
                        few_shot=options.few_shot,
                        batch=options.batch,
                        chat_template=options.chat_template,
                        seeds=seeds,
                        **_cluster(options, name),
                    )
                ),
            )
            for name in chosen
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Puts every item of the task, or of the group's tasks, to the model."""
        params = typed_options(TaskParams, item.params)
        task = params.task
        folder = None if task.location is None else Path(task.location)
        index = known_tasks([task.name], folder)
        if task.name not in index or _resolve(task.name, index, folder) != task:
            raise MeasurementError(
                f"task {task.name}: its files have changed since the run was planned; start the"
                " run again"
            )
        code = () if loaded.trust_code else code_of_task(task.name, task.location)
        if code:
            raise MeasurementError(f"task {task.name}: found {'; '.join(code)}; {REMEDY}")
        results, prompts = run_task(
            loaded,
            task.name,
            yaml_files_of(task.name, index),
            seeds=params.seeds,
            batch=params.batch,
            limit=params.limit,
            few_shot=params.few_shot,
            chat_template=params.chat_template,
            trust_code=loaded.trust_code,
            cluster=params.cluster,
        )
        outcome = make_outcome(task.name, results, params.cluster)
        warnings = []
        if prompts["truncated_items"]:
            warnings.append(
                f"{prompts['truncated_items']} of {outcome.details['items']} items of {task.name}"
                f" are longer than the model's context of {prompts['context_tokens']} tokens and"
                " were cut at their beginning: compare with care, or ask for fewer examples"
            )
        if params.few_shot not in {None, outcome.details["few_shot"]}:
            warnings.append(
                f"{task.name} was taken with {outcome.details['few_shot']} examples, as it says"
                f" itself, not with few_shot: {params.few_shot}; leave few_shot out"
            )
        return replace(outcome, details={**outcome.details, **prompts}, warnings=tuple(warnings))


def _cluster(options: TasksOptions, name: str) -> dict[str, str]:
    """As a parameter of the task; none where the suite does not say, as in earlier records."""
    given = options.cluster
    field = given.get(name) if isinstance(given, dict) else given
    return {} if field is None else {"cluster": field}


def _check_clusters(options: TasksOptions, names: Sequence[str]) -> None:
    unknown = [name for name in options.cluster or () if name not in names]
    if isinstance(options.cluster, dict) and unknown:
        near = did_you_mean(unknown[0], names)
        raise TextError(
            f"cluster: found {', '.join(unknown)}; expected names of the tasks that are taken:"
            f" {', '.join(dict.fromkeys(names))}{f'; {near}' if near else ''}"
        )


def _own_folder(include: str | None, base: Path) -> Path | None:
    if include is None:
        return None
    folder = written_path(include, base, TextError).resolve()
    if not folder.is_dir():
        raise TextError(
            f"include: {include}: no such folder ({folder}); expected a folder with task YAML"
            " files; check the path, which starts at the suite's folder"
        )
    if not read_folder(folder):
        raise TextError(
            f"include: {include}: no task in {folder}{_passed_over(folder)}; expected files that"
            " end in .yaml and have a key task or group; name the folder that holds them"
        )
    return folder


def _describe_unknown(name: str, index: Index, folder: Path | None) -> str:
    near = did_you_mean(name, index)
    own = ""
    if folder is not None:
        own = f", {', '.join(read_folder(folder))} in {folder}{_passed_over(folder)}"
    return (
        f"names: {name}: no task or group of that name;"
        f"{f' {near}' if near else ''} There is {', '.join(bundled_tasks())} in"
        f" qbench{own}, and what `lm_eval ls tasks` lists"
    )


def _passed_over(folder: Path) -> str:
    reasons = unreadable_files(folder)
    return f" (passed over: {', '.join(reasons)})" if reasons else ""


def _resolve(name: str, index: Index, folder: Path | None) -> ResolvedTask:
    files = yaml_files_of(name, index)
    own = folder is not None and any(file.is_relative_to(folder) for file in files)
    try:
        found = fingerprint(files)
    except (OSError, ValueError) as error:
        raise TextError(
            f"names: {name}: one of the task's files cannot be read ({error}); check"
            f" {', '.join(map(str, files))} and what they include"
        ) from error
    return ResolvedTask(name=name, location=str(folder) if own else None, fingerprint=found)


def _slug(name: str, options: TasksOptions) -> str:
    parts = [slugify(name)]
    if options.few_shot is not None:
        parts.append(f"{options.few_shot}shot")
    if options.limit is not None:
        parts.append(f"first{options.limit}")
    if options.chat_template:
        parts.append("chat")
    return "-".join(parts)


TASKS = Tasks()
