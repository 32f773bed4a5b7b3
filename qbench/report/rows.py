"""Records as rows, one for each metric: what csv files and frames are made of."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from qbench.compare.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.record import Metric, Record
    from qbench.core.spec import Cell

COLUMNS = (
    "suite",
    "rehearsal",
    "device",
    "device_kind",
    "model",
    "model_source",
    "precision",
    "label",
    "options",
    "tuning",
    "arm",
    "method",
    "training_precision",
    "seed",
    "deploy",
    "cell",
    "reference",
    "measurement",
    "item",
    "params",
    "repeat",
    "status",
    "phase",
    "reason",
    "metric",
    "value",
    "unit",
    "better",
    "samples",
    "tabled",
    "warnings",
    "key",
    "started_at",
    "duration_s",
    "protocol",
    "qbench",
    "python",
    "platform",
    "threads",
    "git_revision",
    "versions",
)
"""Columns of the rows, in order.

`reason` says why the status is not `ok` or why the metric has no value, `samples` counts the raw
samples, `tabled` tells whether a report shows the record or passes it over for a newer one.
`rehearsal` tells whether the numbers are those of a rehearsal's replacements.
`tuning`, `arm` (what the seeds of one tuning share), `method`, `training_precision` and `seed` are
empty for an untuned model, `deploy` for a training too.
`options`, `params` and `versions` are JSON objects, `warnings` are separated by newlines.
"""


_TUNING = ("tuning", "arm", "method", "training_precision", "seed", "deploy")


def metric_rows(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """One row a metric; a record without metrics gives one row whose metric is None."""
    tabled = {id(record) for record in select(records).records}
    for record in records:
        shared = _shared(record, tabled=id(record) in tabled)
        metrics: Sequence[Metric | None] = record.metrics or (None,)
        for metric in metrics:
            row = shared | _of_metric(metric, record.reason)
            yield {name: row[name] for name in COLUMNS}


def _shared(record: Record, *, tabled: bool) -> dict[str, Any]:
    environment = record.environment
    return {
        "suite": record.suite,
        "rehearsal": bool(record.rehearsal),
        "device": environment.device,
        "device_kind": environment.device_kind,
        "model": record.cell.model.name,
        "model_source": record.cell.model.source,
        "precision": record.cell.precision.name,
        "label": record.cell.label,
        "options": _json(record.cell.precision.options),
        **_of_tuning(record.cell),
        "cell": record.cell.slug,
        "reference": record.reference,
        "measurement": record.item.measurement,
        "item": record.item.slug,
        "params": _json(record.item.params),
        "repeat": record.item.repeat,
        "status": record.status,
        "phase": record.phase,
        "tabled": tabled,
        "warnings": "\n".join(record.warnings) or None,
        "key": record.key,
        "started_at": record.started_at,
        "duration_s": record.duration_s,
        "protocol": record.protocol,
        "qbench": environment.qbench,
        "python": environment.python,
        "platform": environment.platform,
        "threads": environment.threads,
        "git_revision": environment.git_revision,
        "versions": _json(environment.versions),
    }


def _of_tuning(cell: Cell) -> dict[str, Any]:
    tuning = cell.tuning
    if tuning is None:
        return dict.fromkeys(_TUNING)
    values = (
        tuning.label,
        tuning.arm,
        tuning.method,
        tuning.precision.label,
        tuning.seed,
        cell.deploy,
    )
    return dict(zip(_TUNING, values, strict=True))


def _of_metric(metric: Metric | None, record_reason: str | None) -> dict[str, Any]:
    if metric is None:
        missing = dict.fromkeys(("metric", "value", "unit", "better", "samples"))
        return {**missing, "reason": record_reason}
    finite = metric.value is not None and math.isfinite(metric.value)
    reason = metric.reason or (None if finite else "the value is not a finite number")
    return {
        "metric": metric.name,
        "value": metric.value if finite else None,
        "unit": metric.unit,
        "better": metric.better,
        "samples": len(metric.samples) if metric.samples is not None else None,
        "reason": record_reason or reason,
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)
