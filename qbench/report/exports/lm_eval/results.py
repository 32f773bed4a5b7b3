"""The results file of a call of `lm_eval`: the keys and shapes of lm-eval 0.4.13.

What a record does not hold is null or left out. What only qbench knows stands under the key
`qbench`: the precision, the conditions, intervals and the change from the reference.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from qbench.compare.comparable import fingerprint
from qbench.compare.items import TASKS, task_of
from qbench.core.page import INTERVAL_LEVEL
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.measures.tasks.data import DATA
from qbench.report.exports.described import (
    commit_of,
    described_cell,
    described_conditions,
    model_name,
)
from qbench.report.exports.lm_eval.runs import (
    Score,
    data_of_task,
    members_of,
    scores_of,
)
from qbench.report.figures import change_with_interval, finite_value, with_interval

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Mapping

    from qbench.compare.selection import CellRecords
    from qbench.core.record import Better, Record
    from qbench.report.exports.lm_eval.runs import TaskRun

_NO_ERROR = "N/A"
"""Where lm-eval has no standard error."""
_HIGHER: dict[Better, bool | None] = {"higher": True, "lower": False, "neither": None}
_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
_MODEL_OF_ENDPOINT = {"completions": "local-completions", "chat": "local-chat-completions"}
"""What lm-eval calls the models that `served_tasks` asks."""


def results_document(run: TaskRun) -> dict[str, Any]:
    """What `lm_eval` would write of these tasks, as far as their records hold it."""
    results: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for record in run.groups_first:
        name, members = task_of(record), members_of(record)
        for task, told in members.items():
            results[task] = _of_member(task, as_mapping(told))
        results[name] = _of_task(record)
        if members:
            groups[name] = results[name]
    source = _source(run)
    first = run.records[0]
    versions = first.environment.versions
    return {
        "results": results,
        **({"groups": groups} if groups else {}),
        "group_subtasks": {
            task_of(one): list(members_of(one)) for one in run.records if members_of(one)
        },
        "configs": dict(sorted(_each(run, _configs).items())),
        "versions": dict(sorted(_each(run, _versions).items())),
        "n-shot": dict(sorted(_each(run, _few_shot).items())),
        "higher_is_better": dict(sorted(_each(run, _directions).items())),
        "n-samples": _each(run, _counts),
        "config": _config(run, source),
        "git_hash": first.environment.git_revision,
        "date": None if run.begun is None else run.begun.timestamp(),
        "pretty_env_info": None,
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": versions.get("lm-eval"),
        "upper_git_hash": None,
        "tokenizer_pad_token": None,
        "tokenizer_eos_token": None,
        "tokenizer_bos_token": None,
        "eot_token_id": None,
        "max_length": first.details.get("context_tokens"),
        "task_hashes": _hashes(run),
        "model_source": source,
        "model_name": run.of.cell.slug,
        "model_name_sanitized": run.of.cell.slug,
        **_prompting(run.params),
        "total_evaluation_time_seconds": _duration(run),
        "qbench": _own(run),
    }


def _each(run: TaskRun, told: Callable[[Record], dict[str, Any]]) -> dict[str, Any]:
    return {name: value for one in run.groups_first for name, value in told(one).items()}


def _of_task(record: Record) -> dict[str, Any]:
    name = task_of(record)
    errors = as_mapping(record.details.get("stderr"))
    row: dict[str, Any] = {"name": name, "alias": name, "sample_len": record.details.get("items")}
    for score, metric in scores_of(record):
        row[score.key] = finite_value(metric)
        error = errors.get(score.short)
        row[score.stderr_key] = _NO_ERROR if error is None else error
    if members_of(record):
        row["sample_count"] = {
            score.key: len(record.series[f"item_{score.short}"])
            for score, _ in scores_of(record)
            if f"item_{score.short}" in record.series
        }
    return row


def _of_member(task: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """A task of a group: its record keeps the scores of it without their errors."""
    row: dict[str, Any] = {"name": task, "alias": task, "sample_len": told.get("items")}
    for short, value in told.items():
        if short != "items":
            score = Score(short, short)
            row[score.key] = value
            row[score.stderr_key] = _NO_ERROR
    return row


def _configs(record: Record) -> dict[str, Any]:
    shots = _few_shot(record)
    generation = as_mapping(record.item.params.get("gen_kwargs"))
    tasks = members_of(record) or {task_of(record): None}
    return {
        task: {
            "task": task,
            **_dataset(record, task),
            "num_fewshot": shots.get(task),
            "metric_list": [
                {"metric": name, "higher_is_better": _HIGHER[better]}
                for name, better in _metrics(record)
            ],
            **({"generation_kwargs": generation} if generation else {}),
            "metadata": {"version": _versions(record).get(task)},
        }
        for task in tasks
    }


def _dataset(record: Record, task: str) -> dict[str, Any]:
    """What lm-eval's configuration says of it, as far as the record names the data."""
    data = data_of_task(record, task)
    names = {"dataset_path": data.get("path"), "dataset_name": data.get("name")}
    return {name: value for name, value in names.items() if value is not None}


def _metrics(record: Record) -> ItemsView[str, Better]:
    return {score.metric: metric.better for score, metric in scores_of(record)}.items()


def _versions(record: Record) -> dict[str, Any]:
    """A task's version is a number, a group's a text; those of a group's members are not held."""
    told = record.details.get("task_version")
    if members_of(record) or not isinstance(told, str):
        return {task_of(record): told}
    try:
        return {task_of(record): float(told) if "." in told else int(told)}
    except ValueError:
        return {task_of(record): None if told == "None" else told}


def _few_shot(record: Record) -> dict[str, Any]:
    told = record.details.get("few_shot")
    names = [task_of(record), *members_of(record)]
    return told if isinstance(told, dict) else dict.fromkeys(names, told)


def _directions(record: Record) -> dict[str, Any]:
    told = {name: _HIGHER[better] for name, better in _metrics(record)}
    return dict.fromkeys((task_of(record), *members_of(record)), told)


def _counts(record: Record) -> dict[str, Any]:
    members = members_of(record)
    if members:
        counts = {task: as_mapping(told).get("items") for task, told in members.items()}
        return {task: {"original": None, "effective": count} for task, count in counts.items()}
    own = record.details
    return {
        task_of(record): {"original": own.get("items_in_all"), "effective": own.get("items")},
    }


def _hashes(run: TaskRun) -> dict[str, Any]:
    """Of single tasks; a group's record has one hash over all of its tasks."""
    return {
        task_of(record): record.details.get("samples_hash")
        for record in run.records
        if not members_of(record)
    }


def _source(run: TaskRun) -> str:
    if run.records[0].item.measurement == TASKS[0]:
        return "hf"
    return _MODEL_OF_ENDPOINT.get(str(run.params.get("endpoint")), "local-completions")


def _config(run: TaskRun, source: str) -> dict[str, Any]:
    model, params, first = run.of.cell.records[0].cell.model, run.params, run.records[0]
    batch = params.get("batch")
    seeds = as_list(params.get("seeds"))
    return {
        "model": source,
        "model_args": {
            "pretrained": model_name(model),
            **({} if model.revision is None else {"revision": model.revision}),
        },
        "model_num_parameters": None,
        "model_dtype": None,
        "model_revision": model.revision,
        "model_sha": commit_of(first),
        "batch_size": None if batch is None else str(batch),
        "batch_sizes": [],
        "device": first.environment.device_type,
        "use_cache": None,
        "limit": as_number(params.get("limit")),
        "bootstrap_iters": None,
        "gen_kwargs": as_mapping(params.get("gen_kwargs")),
        **{name: seeds[at] if at < len(seeds) else None for at, name in enumerate(_SEEDS)},
    }


def _duration(run: TaskRun) -> str | None:
    """Seconds, as a text; None where a record does not say how long it took."""
    each = [record.duration_s for record in run.records]
    return None if None in each else str(sum(filter(None, each)))


def _prompting(params: Mapping[str, Any]) -> dict[str, Any]:
    system, chat = params.get("system_prompt"), bool(params.get("chat_template"))
    told = params.get("fewshot_as_multiturn")
    return {
        "system_instruction": system,
        "system_instruction_sha": _sha256(system) if system else None,
        "fewshot_as_multiturn": chat if told is None else told,
        "chat_template": None,
        "chat_template_sha": None,
    }


def _own(run: TaskRun) -> dict[str, Any]:
    first = run.records[0]
    reference = run.of.reference
    return {
        "suite": first.suite,
        **described_cell(first.cell),
        "reference": run.of.cell.reference,
        "model": model_name(first.cell.model),
        "model_fingerprint": fingerprint(first),
        "chat_template_used": bool(run.params.get("chat_template")),
        **described_conditions(first),
        "tasks": {task_of(one): _own_of_task(one, reference) for one in run.records},
    }


def _own_of_task(record: Record, reference: CellRecords | None) -> dict[str, Any]:
    return {
        "record": record.key,
        "item": record.item.slug,
        "started_at": record.started_at,
        "warnings": list(record.warnings),
        "chance": record.details.get("chance"),
        "data": as_mapping(record.details.get(DATA)) or None,
        "samples_hash": record.details.get("samples_hash"),
        "repeats": record.details.get("repeats"),
        "scores": {
            score.key: _certainty(score, record, reference) for score, _ in scores_of(record)
        },
    }


def _certainty(score: Score, record: Record, reference: CellRecords | None) -> dict[str, Any]:
    figure = with_interval([record], score.name)
    told: dict[str, Any] = {
        "level": INTERVAL_LEVEL,
        "low": figure.low,
        "high": figure.high,
        "reason": figure.reason if figure.low is None else None,
    }
    base = [] if reference is None else reference.of(record.item.measurement, record.item.slug)
    if reference is None or not base:
        return told
    change = change_with_interval([record], base, score.name)
    return told | {
        "against": reference.label,
        "change": change.value,
        "change_low": change.low,
        "change_high": change.high,
        "change_reason": change.reason,
    }


def _sha256(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()
