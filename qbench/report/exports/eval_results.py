"""Scores as the files `.eval_results/*.yaml` of a model's repository, which feed leaderboards.

The form is the Hub's (https://huggingface.co/docs/hub/eval-results), written by huggingface_hub's
own `EvalResultEntry`. A leaderboard belongs to a dataset of the Hub that holds an `eval.yaml`,
which names its tasks; what is of no such task is left out, with the reason. Neither that file nor
the documentation says whether a score is a share or a percentage: the notes of each entry do.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import yaml

from qbench.core.unchecked import as_list, as_mapping
from qbench.core.untrusted import parse_yaml
from qbench.report.exports.hub_scores import LeftOut, scores_of
from qbench.report.exports.model_card import check_servable
from qbench.report.exports.tree import part_of_path
from qbench.report.tasks import conditions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import EvalResultEntry

    from qbench.report.exports.chosen import ExportedCell
    from qbench.report.exports.hub_scores import HubScore

FOLDER = ".eval_results"
_DEFAULT_SPLIT = "test"
"""Of a task in an `eval.yaml` that names none."""
_PERCENT = 100.0


@dataclass(frozen=True)
class Candidate:
    """A score that may stand on a leaderboard, once it is known which task of it is meant."""

    score: HubScore
    task: str
    dataset: str
    """The dataset's repository."""


@dataclass(frozen=True)
class ResultFile:
    """One file, with the entry that it holds."""

    path: str
    """In the model's repository."""
    entry: EvalResultEntry

    @property
    def text(self) -> str:
        """The file's contents."""
        from huggingface_hub import eval_result_entries_to_yaml

        listed = eval_result_entries_to_yaml([self.entry])
        return yaml.safe_dump(listed, sort_keys=False, allow_unicode=True)


def candidates(
    exported: ExportedCell, metrics: Sequence[str] = ()
) -> tuple[list[Candidate], list[LeftOut]]:
    """Scores of tasks on whole datasets of the Hub, one a task unless `metrics` picks others.

    `metrics` are names or patterns, such as `exact_match@*`. Raises `UsageError` for a training.
    """
    check_servable(exported)
    scores, left_out = scores_of(exported.cell)
    found: list[Candidate] = []
    taken: set[tuple[str, str]] = set()
    for score in scores:
        item = (score.record.item.measurement, score.item)
        why = _why_not(score)
        if not why and metrics and not any(fnmatchcase(score.metric, one) for one in metrics):
            why = "not among those of --metric"
        if not why and not metrics and item in taken:
            why = "a leaderboard has one value a task; --metric chooses another than the first"
        if why or score.task is None or score.data is None:
            left_out.append(LeftOut(score.what, why))
            continue
        taken.add(item)
        found.append(Candidate(score, score.task, score.data.id))
    return found, left_out


def _why_not(score: HubScore) -> str:
    if score.task is None:
        return "no leaderboard of the Hub is of a text's perplexity; the card has it"
    if score.data is None:
        return score.data_unknown
    if not score.data.on_hub:
        return "its data is no dataset of the Hub; the card has it"
    return f"{score.partly}: no score of the whole; the card has it" if score.partly else ""


def task_id_of(
    candidate: Candidate, given: Mapping[str, str], benchmark: Mapping[str, Any] | None
) -> str | LeftOut:
    """The leaderboard's name of the task; else why it is not known.

    `given` by lm-eval's name of the task; `benchmark` is the dataset's `eval.yaml` where it was
    read, in which the configuration and the split say which task is meant.
    """
    score, task = candidate.score, candidate.task
    asked = given.get(task)
    if benchmark is None:
        if asked is not None:
            return asked
        return LeftOut(
            score.what,
            f"which task of {candidate.dataset} it is stands in the eval.yaml of that dataset,"
            f" which was not read; --task-id {task}=ID says it",
        )
    tasks = [as_mapping(one) for one in as_list(benchmark.get("tasks"))]
    names = [str(one["id"]) for one in tasks if "id" in one]
    if asked is not None:
        if asked in names:
            return asked
        return LeftOut(
            score.what,
            f"--task-id {task}={asked}: found no such task of {candidate.dataset}; there is"
            f" {', '.join(names) or 'none'}",
        )
    fitting = [str(one["id"]) for one in tasks if "id" in one and _fits(one, score)]
    if len(fitting) == 1:
        return fitting[0]
    which = ", ".join(fitting or names) or "none"
    return LeftOut(
        score.what,
        f"{len(fitting)} tasks of {candidate.dataset} have its configuration and split (there is"
        f" {which}); --task-id {task}=ID says which is meant",
    )


def _fits(task: Mapping[str, Any], score: HubScore) -> bool:
    data = score.data
    if data is None or str(task.get("split") or _DEFAULT_SPLIT) != data.split:
        return False
    return task.get("config") is None or str(task["config"]) == (data.config or "default")


def result_file(
    candidate: Candidate,
    task_id: str,
    exported: ExportedCell,
    *,
    percent: bool = False,
    source: str | None = None,
) -> ResultFile:
    """The file of a score, a share as `percent` or as it is.

    `source` is where its records lie, for those who look.
    """
    from huggingface_hub import EvalResultEntry

    score, data = candidate.score, candidate.score.data
    factor = _PERCENT if percent and score.is_share else 1.0
    entry = EvalResultEntry(
        dataset_id=candidate.dataset,
        task_id=task_id,
        value=(score.figure.value or 0.0) * factor,
        dataset_revision=data.revision if data else None,
        date=score.record.started_at,
        source_url=source,
        source_name="qbench" if source else None,
        notes=_notes(score, exported, factor),
    )
    name = part_of_path(f"qbench-{score.record.item.measurement}-{score.item}-{score.metric}")
    return ResultFile(f"{FOLDER}/{name}.yaml", entry)


def same_elsewhere(files: Sequence[ResultFile], there: Mapping[str, str]) -> list[LeftOut]:
    """Values of the same leaderboards in other files of a repository, by path: readers see both."""
    from huggingface_hub import parse_eval_result_entries

    own = {(one.entry.dataset_id, one.entry.task_id): one for one in files}
    paths = {one.path for one in files}
    found = []
    for path, text in there.items():
        try:
            entries = [] if path in paths else parse_eval_result_entries(parse_yaml(text) or [])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found.append(LeftOut(path, f"cannot be read ({type(error).__name__}); it stays"))
            continue
        for entry in entries:
            same = own.get((entry.dataset_id, entry.task_id))
            if same is not None:
                why = f"holds {entry.value} of the same {entry.task_id} of {entry.dataset_id}; both"
                found.append(
                    LeftOut(path, f"{why} will be shown, {same.entry.value} of {same.path}")
                )
    return found


def _notes(score: HubScore, exported: ExportedCell, factor: float) -> str:
    """How it was taken, on what, how sure it is, and what a reader is warned of."""
    environment = score.record.environment
    figure = score.figure
    shots = score.args.get("num_fewshot")
    unit = "a share, from 0 to 1" if score.is_share else "as lm-eval gives it"
    how = [
        f"{score.metric} of lm-eval's {score.task}, {'in percent' if factor != 1.0 else unit}",
        *([f"{shots}-shot"] if shots is not None else []),
        *conditions(score.record).removeprefix(", ").split(", "),
        f"lm-eval {environment.versions.get('lm-eval') or 'of an unknown version'}",
        f"{exported.cell.label} of {score.record.cell.model.source}",
        f"qbench {environment.qbench} on {environment.device}",
    ]
    if figure.low is not None and figure.high is not None:
        how.append(f"95 % interval {figure.low * factor:.4g} to {figure.high * factor:.4g}")
    text = "; ".join(one for one in how if one)
    return f"{text}; warning: {figure.detail}" if figure.warned else text
