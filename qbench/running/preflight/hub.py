"""What a run must fetch from a hub, whether the hub can be reached, and whether it gives access."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.environment import hub_reachable
from qbench.core.errors import ModelError, Problem
from qbench.core.options import typed_options
from qbench.measures.completion import COMPLETION, CompletionParams
from qbench.measures.generation.generation import GENERATION, GenerationParams
from qbench.measures.read_texts import text_of
from qbench.measures.serving.servers import SERVED_TASKS
from qbench.measures.tasks.index import known_tasks, yaml_files_of
from qbench.measures.tasks.options import TaskParams
from qbench.measures.tasks.tasks import TASKS
from qbench.measures.training.training import TRAINING, TrainingParams
from qbench.plan.needs import download_bytes
from qbench.sources.data.texts import DATASETS
from qbench.sources.models.hub import data_folder, hub_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.spec import Item, ResolvedModel
    from qbench.measures.tasks.options import ResolvedTask
    from qbench.plan.job import Job

_DATASET_PATH = re.compile(r"^dataset_path:\s*['\"]?([\w.-]+(?:/[\w.-]+)?)", re.MULTILINE)
_INCLUDE = re.compile(r"^include:\s*['\"]?(\S+?)['\"]?\s*$", re.MULTILINE)

_ON_DATA: dict[str, type[CompletionParams | GenerationParams | TrainingParams]] = {
    COMPLETION.name: CompletionParams,
    GENERATION.name: GenerationParams,
    TRAINING.name: TrainingParams,
}
"""Items that read what is tuned on."""


@dataclass(frozen=True)
class Download:
    """Something on a hub that is not on this machine yet."""

    name: str
    """As a person calls it: a model's id, `wikitext-2`, a task's data set."""
    download_bytes: int | None = None
    """None where it is not known, which is so of data sets."""


def hub_problems(jobs: Sequence[Job]) -> list[Problem]:
    """Why what is not here yet cannot be fetched; nothing where all is here, or can be."""
    wanted = models_to_download(jobs) + _data_to_download(jobs)
    if not wanted:
        return []
    reachable, words = hub_reachable()
    if not reachable:
        token = (
            ""
            if _has_token()
            else (
                "; gated models need a token too, and there is none (`hf auth login`, or HF_TOKEN)"
            )
        )
        listed = ", ".join(_shown(one) for one in wanted)
        return [
            Problem(
                "network",
                f"{words}; not on this machine yet: {listed}",
                remedy="go on line or set HF_ENDPOINT to a mirror; or copy a hub cache here and"
                f" name it with HF_HOME{token}",
            )
        ]
    return [
        Problem("access", str(reason), remedy="then run again: only what is missing is measured")
        for reason in _refused(jobs)
    ]


def models_to_download(jobs: Sequence[Job]) -> list[Download]:
    """The hub models that must be downloaded, with their sizes."""
    return [Download(model.ref.source, download_bytes(model)) for model in _absent(jobs)]


def _absent(jobs: Sequence[Job]) -> list[ResolvedModel]:
    models = {job.model.ref.source: job.model for job in jobs}
    return [one for one in models.values() if one.ref.kind == "hub" and one.folder is None]


def _refused(jobs: Sequence[Job]) -> Iterator[ModelError]:
    """What the hub says of models that were planned by their known configuration alone."""
    from qbench.sources.models import hub

    for model in _absent(jobs):
        if model.disk_bytes is None:
            try:
                hub.describe_remote(model.ref.location, model.revision)
            except ModelError as error:
                yield error


def _data_to_download(jobs: Sequence[Job]) -> list[Download]:
    repositories: dict[str, str] = {}
    for job in jobs:
        for task in job.tasks:
            repositories.update(_repositories(task.item))
    return [
        Download(shown) for repository, shown in repositories.items() if not _is_cached(repository)
    ]


def _repositories(item: Item) -> dict[str, str]:
    """Data sets on the hub that an item reads, with what they are called in the suite."""
    text = text_of(item)
    if text is not None:
        return {DATASETS[text.location].repo: text.source} if text.kind == "hub" else {}
    if item.measurement in (TASKS.name, SERVED_TASKS):
        task = typed_options(TaskParams, item.params).task
        return {repository: f"{task.name} ({repository})" for repository in _of_task(task)}
    if item.measurement not in _ON_DATA:
        return {}
    data = typed_options(_ON_DATA[item.measurement], item.params).data
    return {} if data is None or data.kind != "hub" else {data.location: data.source}


def _of_task(task: ResolvedTask) -> list[str]:
    """Data sets that a task's files name; a local format such as `json` is none."""
    folder = None if task.location is None else Path(task.location)
    files = list(yaml_files_of(task.name, known_tasks([task.name], folder)))
    found = []
    for file in files:
        text = _read(file)
        match = _DATASET_PATH.search(text)
        if match is not None and ("/" in match[1] or "data_files" not in text):
            found.append(match[1])
        files += [
            beside
            for include in _INCLUDE.findall(text)
            if (beside := file.parent / include) not in files
        ]
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _is_cached(repository: str) -> bool:
    """Whether the data set's rows, or its files, are in the caches of the hub's libraries."""
    names = {repository.replace("/", "___").casefold()}
    if any(one.name.casefold() in names for one in _folders(data_folder())):
        return True
    snapshots = hub_folder() / f"datasets--{repository.replace('/', '--')}" / "snapshots"
    return any(True for _ in _folders(snapshots))


def _folders(place: Path) -> list[Path]:
    try:
        return [one for one in place.iterdir() if one.is_dir()]
    except OSError:
        return []


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _shown(one: Download) -> str:
    return (
        one.name
        if one.download_bytes is None
        else f"{one.name} ({one.download_bytes / 1e9:.1f} GB)"
    )
