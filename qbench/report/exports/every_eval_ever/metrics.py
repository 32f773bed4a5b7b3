"""What the schema wants to know of a metric: what kind it is, its unit, and between which bounds.

A bound that is not known is left out, never made up: see `Kind.bounds`.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.measures import measures
from qbench.report.exports.tree import strings

if TYPE_CHECKING:
    from qbench.core.record import Metric, MetricDefinition, Record

Bounds = tuple[float, float]

_SHARE: Bounds = (0.0, 1.0)
_FROM_0: Bounds = (0.0, math.inf)
_FROM_1: Bounds = (1.0, math.inf)
_PERCENT: Bounds = (0.0, 100.0)


class Kind(NamedTuple):
    """A family of metrics that may be joined across sources."""

    name: str
    """Normalized: `accuracy`, `perplexity`."""
    bounds: Bounds | None = None
    """The smallest and the largest value there can be; None where it is not known."""
    id: str | None = None
    """The name that all sources share; None for a metric of qbench's own."""
    unit: str | None = None
    """In words, where the record's unit does not say it."""


_OF_TASKS = {
    "acc": Kind("accuracy", _SHARE, "accuracy", "proportion"),
    "acc_norm": Kind("accuracy", _SHARE, unit="proportion"),
    "acc_bytes": Kind("accuracy", _SHARE, unit="proportion"),
    "acc_mutual_info": Kind("accuracy", _SHARE, unit="proportion"),
    "exact_match": Kind("exact_match", _SHARE, "exact-match", "proportion"),
    "em": Kind("exact_match", _SHARE, unit="proportion"),
    "f1": Kind("f1", _SHARE, "f1", "proportion"),
    "mcc": Kind("mcc", (-1.0, 1.0)),
    "perplexity": Kind("perplexity", _FROM_1),
    "word_perplexity": Kind("perplexity", _FROM_1),
    "byte_perplexity": Kind("perplexity", _FROM_1),
    "bits_per_byte": Kind("bits_per_byte", _FROM_0),
}
"""Of lm-eval's metrics those whose bounds follow from what they are."""
_BY_NAME = (
    ("perplexity", Kind("perplexity", _FROM_1, "perplexity")),
    ("*perplexity*", Kind("perplexity", _FROM_1)),
    ("bits_per_byte", Kind("bits_per_byte", _FROM_0)),
    ("*kl.*", Kind("kl_divergence", _FROM_0)),
    ("*top1_agreement", Kind("agreement", _SHARE, unit="proportion")),
    ("*rms_probability_change", Kind("probability_change", _SHARE, unit="proportion")),
    ("*probability_change.mean", Kind("probability_change", (-1.0, 1.0), unit="proportion")),
    ("nonfinite_share", Kind("failure_rate", _SHARE, unit="proportion")),
    ("serving.errors", Kind("failure_rate", _SHARE, unit="proportion")),
    ("serving.slo_attainment", Kind("pass_rate", _SHARE, unit="proportion")),
    ("generation.exact_match", Kind("exact_match", _SHARE, "exact-match", "proportion")),
    ("generation.rougeL", Kind("rouge", _SHARE, unit="proportion")),
    ("generation.chrf", Kind("chrf", _PERCENT, unit="percent")),
    ("generation.bleu", Kind("bleu", _PERCENT, unit="percent")),
    ("needle.retrieval", Kind("pass_rate", _SHARE, unit="proportion")),
    ("needle.exact", Kind("pass_rate", _SHARE, unit="proportion")),
    ("chat.same_text", Kind("agreement", _SHARE, unit="proportion")),
    ("chat.parts_at", Kind("agreement", _FROM_0, unit="tokens")),
    ("weight_error.snr", Kind("signal_to_noise", (-math.inf, math.inf))),
    ("weight_error.*", Kind("weight_error", _FROM_0, unit="proportion")),
    ("bits_per_weight.*", Kind("bits_per_weight", _FROM_0)),
    # A rest is what was measured less what is explained: also below 0.
    ("training.memory.unexplained", Kind("memory", (-math.inf, math.inf))),
    ("adapters.bytes_each", Kind("memory", (-math.inf, math.inf))),
)
_BY_UNIT = {
    "B": Kind("memory", _FROM_0, unit="bytes"),
    "s": Kind("latency", _FROM_0, unit="seconds"),
    "J": Kind("energy", _FROM_0, unit="joules"),
    "nat": Kind("loss", _FROM_0, unit="nats"),
    "bit": Kind("bits", _FROM_0, unit="bits"),
    "dB": Kind("signal_to_noise", unit="decibels"),
    "tokens/s": Kind("throughput", _FROM_0, unit="tokens per second"),
    "requests/s": Kind("throughput", _FROM_0, unit="requests per second"),
}
"""Of all others, by the record's unit."""
FROM_THE_REFERENCE = ("kl_divergence", "agreement", "probability_change")
"""Kinds that say how far a cell is from the reference, as they are."""
_INFINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}


def metric_config(
    record: Record, metric: Metric, short: str | None, value: float
) -> dict[str, Any]:
    """The part `metric_config` of a result.

    `short` is lm-eval's name of the metric of a task, without its filter; None for another.
    """
    kind = _kind(metric, short)
    bounds = kind.bounds if kind.bounds and kind.bounds[0] <= value <= kind.bounds[1] else None
    definition = _definition(record, metric)
    unit = kind.unit or getattr(_BY_UNIT.get(metric.unit), "unit", None)
    details = {
        "unit_of_the_record": metric.unit,
        "formula": None if definition is None or short else definition.formula,
        "bounds_status": None if bounds else "unknown",
    }
    return {
        "evaluation_description": f"lm-eval's {short}" if short else _title(metric, definition),
        "metric_id": kind.id or f"qbench.{short or metric.name}",
        "metric_name": short or metric.name,
        "metric_kind": kind.name,
        **({} if unit is None else {"metric_unit": unit}),
        "lower_is_better": metric.better == "lower",
        **({} if bounds is None else _continuous(bounds)),
        "additional_details": strings(details),
    }


def _continuous(bounds: Bounds) -> dict[str, Any]:
    low, high = (_INFINITE.get(end, end) for end in bounds)
    return {"score_type": "continuous", "min_score": low, "max_score": high}


def _kind(metric: Metric, short: str | None) -> Kind:
    if short is not None:
        return _OF_TASKS.get(short, Kind(short))
    named = next((kind for pattern, kind in _BY_NAME if fnmatchcase(metric.name, pattern)), None)
    return named or _BY_UNIT.get(metric.unit) or Kind(metric.name)


def _title(metric: Metric, definition: MetricDefinition | None) -> str:
    return metric.name if definition is None else definition.title


def _definition(record: Record, metric: Metric) -> MetricDefinition | None:
    """What it means, of a measurement that this qbench has."""
    known = measures().get(record.item.measurement)
    found = () if known is None else known.metrics
    return next((one for one in found if fnmatchcase(metric.name, one.name)), None)
