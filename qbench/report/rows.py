"""Records as rows, one for each metric: what csv files and frames are made of."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from qbench.compare.selection import select
from qbench.compare.stated import NOTHING
from qbench.report.field_names import names_in_words
from qbench.report.findings import FINDINGS, Which, derived, emitted, findings, priced, which

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qbench.compare.stated import Stated
    from qbench.core.record import Metric, Record
    from qbench.core.spec import Cell, Item

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
    "kv_cache",
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
    "also_called",
    "value",
    "unit",
    "better",
    "samples",
    *FINDINGS,
    "derived",
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

`reason` says why the status is not `ok` or why the metric has no value, `also_called` is what other
tools call the metric, `samples` counts the raw samples, `tabled` tells whether a report shows the
record or passes it over for a newer one.
`rehearsal` tells whether the numbers are those of a rehearsal's replacements.
`kv_cache` is the kind of quantized cache, empty for one in the model's own type.
`tuning`, `arm` (what the seeds of one tuning share), `method`, `training_precision` and `seed` are
empty for an untuned model, `deploy` for a training too.
Of what a report tables there are its findings too: see `qbench.report.findings.FINDINGS`. `derived`
are rows of what no record holds by itself: flips, the changes of fine-tuning, of several seeds
as one, prices where an hour has one, and grams of CO₂ where a kilowatt hour has some.
`options`, `params` and `versions` are JSON objects, `warnings` are separated by newlines.
"""


_ABSENT = {"derived": False}
_OF_RECORD = ("key", "started_at", "duration_s", "repeat")
"""Columns that tell of one record alone."""
_TUNING = ("tuning", "arm", "method", "training_precision", "seed", "deploy")


def metric_rows(
    records: Sequence[Record], stated: Mapping[str, Stated] | None = None
) -> Iterator[dict[str, Any]]:
    """One row a metric, then those that are derived.

    A record without metrics gives one row whose metric is None.
    """
    selection = select(records)
    tabled = {id(record) for record in selection.records}
    found: dict[tuple[Which, str], dict[str, Any]] = {}
    for table in selection.tables:
        found |= findings(table)
    for record in records:
        shared = _shared(record, tabled=id(record) in tabled)
        metrics: Sequence[Metric | None] = record.metrics or (None,)
        for metric in metrics:
            told = {} if metric is None else found.get((which(record), metric.name), {})
            yield _row(shared | _of_metric(metric, record.item, record.reason) | told)
    for table in selection.tables:
        own = (stated or {}).get(table.suite, NOTHING)
        made = (*derived(table), *priced(table, own.price), *emitted(table, own.co2))
        for one in made:
            shared = {**_shared(one.record, tabled=True), **dict.fromkeys(_OF_RECORD)}
            if one.pooled:
                shared |= dict.fromkeys(("seed", "cell", "label", "tuning"))
            yield _row(
                shared
                | _of_metric(one.metric, one.record.item, None)
                | one.found
                | {"derived": True}
            )


def _row(known: dict[str, Any]) -> dict[str, Any]:
    return {name: known.get(name, _ABSENT.get(name)) for name in COLUMNS}


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
        "kv_cache": record.cell.kv_cache,
        **tuning_columns(record.cell),
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


def tuning_columns(cell: Cell) -> dict[str, Any]:
    """What tells how a cell was tuned, by column; each is None of an untuned one."""
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


def _of_metric(metric: Metric | None, item: Item, record_reason: str | None) -> dict[str, Any]:
    if metric is None:
        missing = dict.fromkeys(("metric", "also_called", "value", "unit", "better", "samples"))
        return {**missing, "reason": record_reason}
    finite = metric.value is not None and math.isfinite(metric.value)
    reason = metric.reason or (None if finite else "the value is not a finite number")
    return {
        "metric": metric.name,
        "also_called": names_in_words(metric.name, item.params),
        "value": metric.value if finite else None,
        "unit": metric.unit,
        "better": metric.better,
        "samples": len(metric.samples) if metric.samples is not None else None,
        "reason": record_reason or reason,
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)
