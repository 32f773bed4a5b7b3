"""The tasks that a suite names: found by name, with what their items keep of the options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, TextError
from qbench.core.names import did_you_mean
from qbench.core.packages import missing_packages
from qbench.core.paths import written_path
from qbench.core.spec import slugify
from qbench.measures.measurement import less_unsaid
from qbench.measures.tasks.definitions import packages_lacking
from qbench.measures.tasks.fit import check_effects, kept_options
from qbench.measures.tasks.index import (
    bundled_tasks,
    fingerprint,
    known_tasks,
    read_folder,
    scored_names,
    unreadable_files,
    yaml_files_of,
)
from qbench.measures.tasks.options import ResolvedTask
from qbench.measures.untrusted_code import REMEDY, code_of_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.measures.tasks.index import Index
    from qbench.measures.tasks.options import TaskOptions

COMMAND_SEEDS = (0, 1234, 1234, 1234)
"""What the `lm_eval` command seeds Python, numpy, torch and the choice of examples with."""


@dataclass(frozen=True)
class NamedTask:
    """One task, or group with a score of its own, that a suite asks for."""

    slug: str
    params: dict[str, Any]
    """What its `TaskParams` are made of, without what is of one measurement alone."""


def named_tasks(options: TaskOptions, base: Path) -> tuple[list[NamedTask], Index]:
    """One a task or group with a score of its own; of other groups, one a member. And the index.

    Raises `TextError` for a name that is not known, a folder that is not there, and an option that
    means nothing for what is named.
    """
    folder = _own_folder(options.include, base)
    index = known_tasks(options.names, folder)
    unknown = [name for name in options.names if name not in index]
    if unknown:
        raise TextError("; ".join(_describe_unknown(name, index, folder) for name in unknown))
    chosen = list(dict.fromkeys(one for name in options.names for one in scored_names(name, index)))
    _check_clusters(options, (*chosen, *options.names))
    resolved = [_resolve(name, index, folder) for name in chosen]
    check_effects(options, chosen, index)
    seeds = COMMAND_SEEDS if options.seed is None else (options.seed,) * len(COMMAND_SEEDS)
    named = []
    for task in resolved:
        kept = kept_options(options, task.name, index)
        params = {
            "task": task,
            "limit": options.limit,
            "few_shot": options.few_shot,
            "chat_template": options.chat_template,
            "seeds": seeds,
            **kept,
        }
        named.append(NamedTask(_slug(task.name, options, kept), params))
    return named, index


def asked_of_task(params: Mapping[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Options that ask for one task by an item's parameters; `asked` are those of the same names.

    The other way round of `named_tasks`.
    """
    task, seeds = params["task"], tuple(params["seeds"])
    own = less_unsaid({"include": task.get("location")}, "include")
    several = {"repeats": params["repeats"]} if "repeats" in params else {}
    kept = {name: one for name, one in asked.items() if name not in ("names", "include", "seed")}
    return {
        **less_unsaid(kept, "think_end_token", "gen_kwargs", "metadata"),
        **own,
        **several,
        "names": task["name"],
        "seed": None if seeds == COMMAND_SEEDS else seeds[0],
    }


def files_of(task: ResolvedTask, *, trust_code: bool) -> tuple[Path, ...]:
    """The YAML files of a task as it was planned.

    Raises `MeasurementError` where they have changed since, and for Python that is not trusted.
    """
    folder = None if task.location is None else Path(task.location)
    index = known_tasks([task.name], folder)
    if task.name not in index or _resolve(task.name, index, folder) != task:
        raise MeasurementError(
            f"task {task.name}: its files have changed since the run was planned; start the"
            " run again"
        )
    code = () if trust_code else code_of_task(task.name, task.location)
    if code:
        raise MeasurementError(f"task {task.name}: found {'; '.join(code)}; {REMEDY}")
    return yaml_files_of(task.name, index)


def packages_of(task: ResolvedTask) -> tuple[str, ...]:
    """Packages that the Python of a task's files begins with and that are not here."""
    folder = None if task.location is None else Path(task.location)
    return packages_lacking(task.name, known_tasks([task.name], folder))


def _check_clusters(options: TaskOptions, names: Sequence[str]) -> None:
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
    lacking = missing_packages(("lm-eval",))
    others = f"; a task of lm-eval {lacking}" if lacking else ", and what `lm_eval ls tasks` lists"
    return (
        f"names: {name}: no task or group of that name;"
        f"{f' {near}' if near else ''} There is {', '.join(bundled_tasks())} in"
        f" qbench{own}{others}"
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


def _slug(name: str, options: TaskOptions, kept: dict[str, Any]) -> str:
    parts = [slugify(name)]
    if options.few_shot is not None:
        parts.append(f"{options.few_shot}shot")
    if options.limit is not None:
        parts.append(f"first{options.limit}")
    if options.chat_template:
        parts.append("chat")
    if "thinking" in kept:
        parts.append("thinking" if kept["thinking"] else "no-thinking")
    if "repeats" in kept:
        parts.append(f"{kept['repeats']}times")
    return "-".join(parts)
