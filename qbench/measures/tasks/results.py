"""From what lm-eval returns for a task, or a group of tasks, to metrics, series and details."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.core.record import MetricDefinition
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.tasks.answers import item_answers
from qbench.measures.tasks.clusters import item_clusters
from qbench.measures.tasks.lengths import counts_under, direction_of, has_lengths, lengths_asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.record import Better, Metric

    Rows = list[dict[str, Any]]
    """One for each item and filter, in the order of the items."""

METRICS = (
    MetricDefinition(
        name="tasks.*",
        unit="1",
        better="neither",
        title="task score",
        formula="tasks.<task>.<metric>: lm-eval's metric over the items of the task, such as acc,"
        " the share of them that was answered rightly; the task says which way is better",
    ),
)
"""Stands for all: which metrics there are, and which way is better, each task says for itself."""
_WHERE = ("config_source", "pretrained")
"""Metadata that says where files lie, which is no part of what a task is."""
_NONE_OF_IT = (
    "none of the items that were taken is of this length: `limit` takes the first ones, which are"
    " of the first lengths"
)


@dataclass(frozen=True)
class Score:
    """A metric of a task under one of its filters (how an answer is read from what is written)."""

    metric: str
    filter: str
    value: float | None
    standard_error: float | None
    reason: str = "lm-eval gave no finite number for it"
    """Why it has no value, where it has none."""

    @property
    def name(self) -> str:
        """`acc`, or `exact_match@strict-match` under a filter that has a name."""
        return _score_name(self.metric, self.filter)


def make_outcome(
    name: str,
    results: dict[str, Any],
    cluster: str | None = None,
    definition: MetricDefinition = METRICS[0],
) -> Outcome:
    """`name` is the task, or the group whose tasks were taken; `cluster` as a suite names it.

    `definition` is that of the measurement: `tasks.*`, whose star is the task and its metric.

    Raises `NonFiniteError` when the model gave likelihoods that are not a number, and
    `MeasurementError` for a group that has no score.
    """
    samples: dict[str, Rows] = results["samples"]
    _check_likelihoods(name, samples)
    scores = _told_scores(name, results)
    if not scores:
        raise MeasurementError(
            f"group {name} has no score of its own: give it an aggregate_metric_list, or name its"
            f" tasks instead: {', '.join(samples)}"
        )
    directions = results["higher_is_better"].get(name) or {}
    details = _details(name, results)
    details["stderr"] = {score.name: score.standard_error for score in scores}
    answers = {score.name: _answers(results, score) for score in scores}
    details["answers"] = {name: given for name, given in answers.items() if given is not None}
    places = {score.name: _places(samples, score) for score in scores}
    if any(given is not None for given in places.values()):
        details["items_of"] = {name: given for name, given in places.items() if given is not None}
    documents = {task: [row["doc"] for row in _items(rows)] for task, rows in samples.items()}
    clusters = item_clusters(documents, cluster)
    if clusters is not None:
        details["clusters"], details["clustered_by"] = clusters
    return Outcome(
        metrics=tuple(
            _make_metric(
                definition,
                f"{definition.name.removesuffix('*')}{name}.{score.name}",
                score,
                _better(direction_of(score.metric, directions)),
            )
            for score in scores
        ),
        series={
            f"item_{score.name}": values
            for score in scores
            if (values := _item_values(samples, score)) is not None
        },
        details=details,
    )


def _details(name: str, results: dict[str, Any]) -> dict[str, Any]:
    samples: dict[str, Rows] = results["samples"]
    configs = {task: results["configs"][task] for task in samples}
    config_hash = _sha256(
        json.dumps([_definition(config) for config in configs.values()], default=str)
    )
    # As lm-eval makes the `task_hashes` of its own results, over all tasks.
    samples_hash = _sha256(
        "".join(
            row["doc_hash"] + row["prompt_hash"] + row["target_hash"]
            for rows in samples.values()
            for row in rows
        )
    )
    few_shot = {task: results["n-shot"][task] for task in samples}
    details: dict[str, Any] = {
        "item_ids": _item_ids(samples),
        "items": sum(results["n-samples"][task]["effective"] for task in samples),
        "items_in_all": sum(results["n-samples"][task]["original"] for task in samples),
        "chance": _common({task: _chance(config) for task, config in configs.items()}),
        "few_shot": _common(few_shot),
        "task_version": str(results["versions"].get(name)),
        "task_hash": _sha256(config_hash + samples_hash),
        "config_hash": config_hash,
        "samples_hash": samples_hash,
    }
    if name not in samples:
        details["members"] = {
            task: {
                "items": results["n-samples"][task]["effective"],
                **{score.name: score.value for score in _told_scores(task, results)},
            }
            for task in samples
        }
    return details


def _told_scores(name: str, results: dict[str, Any]) -> list[Score]:
    """The scores of a task or group; of one that scores lengths apart, those that it was asked for.

    Without a value where no item is of that length.
    """
    scores = list(_scores(results["results"][name]))
    samples: dict[str, Rows] = results["samples"]
    own = {name: samples[name]} if name in samples else samples
    if not all(has_lengths(rows) for rows in own.values()):
        return scores
    asked = dict.fromkeys(one for task in own for one in lengths_asked(results["configs"][task]))
    found = {str(row["doc"]["max_length"]) for rows in own.values() for row in rows}
    kept = [one for one in scores if one.metric in found or not one.metric.isdecimal()]
    filters = {one.filter for one in scores}
    missing = [one for one in asked if one not in found] if name in samples else []
    return [*kept, *(Score(one, by, None, None, _NONE_OF_IT) for one in missing for by in filters)]


def _places(samples: dict[str, Rows], score: Score) -> list[int] | None:
    """Of a score that not all items count under, those that do, by their place; else None."""
    rows = [row for each in samples.values() for row in each if row["filter"] == score.filter]
    found = [at for at, row in enumerate(rows) if counts_under(row, score.metric)]
    return None if len(found) == len(rows) else found


def _scores(row: dict[str, Any]) -> Iterator[Score]:
    """The metrics among lm-eval's results of a task: `acc,none` beside `acc_stderr,none`."""
    for key, value in row.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            error = row.get(f"{metric}_stderr,{chosen}")
            yield Score(metric, chosen, _finite(value), _finite(error))


def _better(higher_is_better: object) -> Better:
    """From what the task says; some say nothing."""
    if higher_is_better is None:
        return "neither"
    return "higher" if higher_is_better else "lower"


def _make_metric(kind: MetricDefinition, name: str, score: Score, better: Better) -> Metric:
    definition = kind.model_copy(update={"name": name, "better": better})
    return make_metric((definition,), name, score.value, reason=score.reason)


def _item_values(samples: dict[str, Rows], score: Score) -> list[float] | None:
    """The metric of every item that counts; None where one has none, or more than a number."""
    values: list[float] = []
    for rows in samples.values():
        for row in rows:
            if row["filter"] == score.filter and counts_under(row, score.metric):
                value = _finite(row.get(score.metric))
                if value is None:
                    return None
                values.append(value)
    places = _places(samples, score)
    count = len(_item_ids(samples)) if places is None else len(places)
    return values if values and len(values) == count else None


def _answers(results: dict[str, Any], score: Score) -> list[int | str] | None:
    """What was answered to every item; None where a task does not tell."""
    given: list[int | str] = []
    for task, rows in results["samples"].items():
        chosen = [
            row for row in rows if row["filter"] == score.filter and counts_under(row, score.metric)
        ]
        own = item_answers(results["configs"][task], chosen, score.metric)
        if own is None:
            return None
        given += own
    places = _places(results["samples"], score)
    count = len(_item_ids(results["samples"])) if places is None else len(places)
    return given if given and len(given) == count else None


def _item_ids(samples: dict[str, Rows]) -> list[str]:
    """Each item's place and the start of its document's hash, and its task if there are more."""
    return [
        f"{row['doc_id']}:{row['doc_hash'][:12]}"
        if len(samples) == 1
        else f"{task}:{row['doc_id']}:{row['doc_hash'][:12]}"
        for task, rows in samples.items()
        for row in _items(rows)
    ]


def _items(rows: Rows) -> Rows:
    """A row for each item: those of the first filter."""
    return [row for row in rows if row["filter"] == rows[0]["filter"]]


def _check_likelihoods(name: str, samples: dict[str, Rows]) -> None:
    """Raises `NonFiniteError`: the largest of numbers that are none is still given as an answer.

    Minus infinity is the likelihood of what a model rules out; where it rules out every answer,
    none is the likeliest.
    """
    bad = sum(
        _is_unknown(list(_numbers(row["resps"]))) for rows in samples.values() for row in rows
    )
    if bad:
        raise NonFiniteError(f"task {name}: the likelihoods of {bad} items are not finite numbers")


def _is_unknown(likelihoods: list[float]) -> bool:
    """Whether no answer can be chosen by these; False for an item without any."""
    if any(math.isnan(number) for number in likelihoods):
        return True
    return bool(likelihoods) and not math.isfinite(max(likelihoods))


def _numbers(nested: Any) -> Iterator[float]:
    if isinstance(nested, float):
        yield nested
    elif isinstance(nested, list | tuple):
        for one in nested:
            yield from _numbers(one)


def _definition(config: dict[str, Any]) -> dict[str, Any]:
    """A task's configuration less where its files lie; what its data holds is hashed by item."""
    metadata = {
        key: value for key, value in (config.get("metadata") or {}).items() if key not in _WHERE
    }
    kept = {key: value for key, value in config.items() if key != "dataset_kwargs"}
    return dict(sorted({**kept, "metadata": metadata}.items()))


def _chance(config: dict[str, Any]) -> dict[str, float] | float | None:
    """What guessing scores, where the task's metadata says so."""
    stated: dict[str, float] | float | None = (config.get("metadata") or {}).get("chance")
    return stated


def _common(by_task: dict[str, Any]) -> Any:
    """The value that all tasks share, else the values by task."""
    values = list(by_task.values())
    return values[0] if all(value == values[0] for value in values) else by_task


def _score_name(metric: str, chosen: str) -> str:
    return metric if chosen == "none" else f"{metric}@{chosen}"


def _finite(value: Any) -> float | None:
    """A plain number from whatever a metric gives; None for pairs, words and non-numbers."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
