"""The results of a cell: a score each, with its uncertainty and how that was found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import RESAMPLES, Sampling
from qbench.compare.estimates.estimates import Exact
from qbench.compare.items import TASKS, against_merged, task_of
from qbench.compare.variation import variation
from qbench.core.page import INTERVAL_LEVEL
from qbench.core.unchecked import as_mapping, as_number
from qbench.report.exports.every_eval_ever.metrics import FROM_THE_REFERENCE, metric_config
from qbench.report.exports.every_eval_ever.source import source_data
from qbench.report.exports.lm_eval.runs import scores_of
from qbench.report.exports.tree import started, strings
from qbench.report.figures import change_with_interval, with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Figure
    from qbench.core.record import Metric, Record
    from qbench.report.exports.chosen import ExportedCell
    from qbench.report.exports.lm_eval.runs import Score

_OF_THE_TEXT = ("perplexity", "bits_per_byte", "nonfinite_share", "window_perplexity.")
"""Metrics of a quality item that hold whatever it is compared with: told once."""
_GENERATION = ("temperature", "top_p", "top_k")
_NO_DIRECTION = "neither lower nor higher is better, and the schema has no place for such a metric"


class Result(NamedTuple):
    """An entry of `evaluation_results`, and the record that it is of."""

    record: Record
    metric: Metric
    document: dict[str, Any]


def results_of(one: ExportedCell) -> tuple[list[Result], list[str]]:
    """The results of a cell, and why each metric that is none of them was left out."""
    results: list[Result] = []
    left_out: list[str] = []
    for records in _items(one):
        good = next((record for record in records if record.status == "ok"), None)
        if good is None:
            failed = records[0]
            left_out.append(f"{failed.status}: {failed.reason or 'no reason was recorded'}")
            continue
        named = dict(scores_of(good)) if good.item.measurement in TASKS else {}
        scores = {metric.name: score for score, metric in named.items()}
        for metric in good.metrics:
            if against_merged(good) and metric.name.startswith(_OF_THE_TEXT):
                continue
            figure = with_interval(records, metric.name)
            if figure.value is None:
                left_out.append(figure.reason or "no reason was recorded")
            elif metric.better == "neither":
                left_out.append(_NO_DIRECTION)
            else:
                document = _document(one, records, good, metric, scores.get(metric.name), figure)
                results.append(Result(good, metric, document))
    return results, left_out


def _items(one: ExportedCell) -> list[list[Record]]:
    """The records of each item, by repeat, with what was measured alone: no figures of formats."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(one.cell.records, key=lambda record: record.item.repeat):
        found.setdefault((record.item.measurement, record.item.slug), []).append(record)
    return list(found.values())


def _document(
    one: ExportedCell,
    records: Sequence[Record],
    record: Record,
    metric: Metric,
    score: Score | None,
    figure: Figure,
) -> dict[str, Any]:
    measurement, slug = record.item.measurement, record.item.slug
    begun = started(record)
    value = figure.value or 0.0
    uncertainty, told = _uncertainty(records, metric, figure)
    config = metric_config(record, metric, score and score.metric, value)
    if score is not None and score.filter != "none":
        config["metric_parameters"] = {"filter": score.filter}
    reference = one.reference
    base = [] if reference is None else reference.of(measurement, slug)
    apart = config["metric_kind"] in FROM_THE_REFERENCE or variation(record, metric) != "sample"
    if reference is not None and base and not apart:
        told |= _change(change_with_interval(records, base, metric.name), reference.label)
    told |= {
        "record": record.key,
        "processes": sum(each.status == "ok" for each in records),
        "warnings": "\n".join(record.warnings) or None,
        "unlike_served": figure.unlike_served,
    }
    return {
        "evaluation_result_id": f"{measurement}-{slug}#{metric.name}",
        "evaluation_name": task_of(record) if score else f"{measurement}.{slug}",
        "source_data": source_data(record),
        **({} if begun is None else {"evaluation_timestamp": str(int(begun.timestamp()))}),
        "metric_config": config,
        "score_details": {
            "score": value,
            "details": strings(told | _of_lm_eval(record, score)),
            **({"uncertainty": uncertainty} if uncertainty else {}),
        },
        "generation_config": _generation(record),
    }


def _uncertainty(
    records: Sequence[Record], metric: Metric, figure: Figure
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The uncertainty of a figure, and what there is to say where it has none."""
    found = level(records, metric.name, sampling=Sampling())
    if isinstance(found.estimate, Exact):
        return {}, {"uncertainty": "none: the same would be measured again"}
    if found.estimate is None or figure.low is None or figure.high is None:
        return {}, {"uncertainty": f"not known: {figure.reason or found.reason}"}
    error = found.estimate.standard_error
    told: dict[str, Any] = {}
    if math.isfinite(error):
        told["standard_error"] = {"value": error, "method": found.method}
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        told["confidence_interval"] = {
            "lower": figure.low,
            "upper": figure.high,
            "confidence_level": INTERVAL_LEVEL,
            "method": found.method,
        }
    told["num_samples"] = found.units
    if "bootstrap" in found.method:
        told["num_bootstrap_samples"] = RESAMPLES
    return told, {"unit_of_sampling": found.unit}


def _change(change: Figure, against: str) -> dict[str, Any]:
    """The paired difference from the reference, in the metric's own unit."""
    if change.value is None:
        return {"change_from_reference": f"not known: {change.reason}"}
    return {
        "reference": against,
        "change_from_reference": change.value,
        "change_lower": change.low,
        "change_upper": change.high,
        "change_confidence_level": None if change.low is None else INTERVAL_LEVEL,
    }


def _of_lm_eval(record: Record, score: Score | None) -> dict[str, Any]:
    """lm-eval's own standard error of a score, beside qbench's."""
    if score is None:
        return {}
    return {"lm_eval_stderr": as_mapping(record.details.get("stderr")).get(score.short)}


def _generation(record: Record) -> dict[str, Any]:
    """How texts were written, as far as the record says so, and all parameters of the item."""
    params = record.item.params
    given = as_mapping(params.get("gen_kwargs"))
    args = {name: as_number(given.get(name)) for name in _GENERATION}
    args = {name: value for name, value in args.items() if value is not None}
    most = given.get("max_gen_toks", params.get("new_tokens"))
    if isinstance(most, int) and most >= 1:
        args["max_tokens"] = most
    shots = {"few_shot": record.details.get("few_shot")}
    return {
        **({"generation_args": args} if args else {}),
        "additional_details": strings({**record.item.params_by_contents, **shots}),
    }
