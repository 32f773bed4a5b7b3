"""Latencies in the JSON of pytest-benchmark, for `pytest-benchmark compare`.

A round is a process: its figure is the median of its iterations. So the spread that
pytest-benchmark shows is that between processes, which is the one that a change must exceed.
"""

from __future__ import annotations

import json
import math
import statistics
from typing import TYPE_CHECKING, Any

from qbench.compare.selection import select
from qbench.core.git import CHANGED
from qbench.core.page_data import finite
from qbench.core.quantile import quantile_of_sorted
from qbench.report.figures import finite_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords
    from qbench.core.record import Record

METRICS = ("latency.prefill", "latency.decode", "load_time")
FORMAT_VERSION = "5.0.0"
"""Version of pytest-benchmark whose form this is."""


def render(records: Sequence[Record]) -> str:
    """One benchmark a cell, item and metric; a document without benchmarks if there are none."""
    selection = select(records)
    benchmarks = [
        benchmark
        for table in selection.tables
        for cell in table.every
        for benchmark in _of_cell(cell)
    ]
    newest = max((record.started_at for record in selection.records), default="")
    document = {
        "machine_info": _machine(selection.records),
        "commit_info": _commit(selection.records),
        "benchmarks": benchmarks,
        "datetime": newest,
        "version": FORMAT_VERSION,
    }
    return json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _of_cell(cell: CellRecords) -> list[dict[str, Any]]:
    items: dict[tuple[str, str], list[Record]] = {}
    for record in cell.records:
        items.setdefault((record.item.measurement, record.item.slug), []).append(record)
    found = []
    for (measurement, slug), records in items.items():
        good = sorted(
            (one for one in records if one.status == "ok"), key=lambda one: one.item.repeat
        )
        for metric in METRICS:
            seconds = [v for one in good if (v := finite_value(one.metric(metric))) is not None]
            if seconds and min(seconds) > 0:
                found.append(_benchmark(good[0], measurement, slug, metric, seconds))
    return found


def _benchmark(
    record: Record, measurement: str, slug: str, metric: str, seconds: list[float]
) -> dict[str, Any]:
    cell, device = record.cell, record.environment.device
    name = f"{metric}[{cell.model.name}-{cell.label}-{slug}]"
    return {
        "group": f"{record.suite} {metric} {slug} on {device}",
        "name": name,
        "fullname": f"{record.suite}/{record.environment.device_kind}/{measurement}::{name}",
        "params": {"model": cell.model.name, "precision": cell.label, "item": slug},
        "param": f"{cell.model.name}-{cell.label}-{slug}",
        "extra_info": {"unit": "a round is the median of one process", "protocol": record.protocol},
        "options": {
            "disable_gc": False,
            "timer": "perf_counter",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": False,
        },
        "stats": _stats(seconds),
    }


def _stats(seconds: list[float]) -> dict[str, Any]:
    """The numbers that pytest-benchmark keeps of its rounds, outliers by its two definitions."""
    ordered = sorted(seconds)
    mean = statistics.fmean(ordered)
    stddev = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    q1, median, q3 = (quantile_of_sorted(ordered, share) for share in (0.25, 0.5, 0.75))
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    far = sum(abs(value - mean) > stddev for value in ordered)
    outside = sum(not low <= value <= high for value in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": stddev,
        "rounds": len(ordered),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": far,
        "outliers": f"{far};{outside}",
        "ld15iqr": next((value for value in ordered if value >= low), ordered[0]),
        "hd15iqr": next((value for value in reversed(ordered) if value <= high), ordered[-1]),
        "ops": 1 / mean,
        "total": math.fsum(ordered),
        "data": seconds,
        "iterations": 1,
    }


def _machine(records: Sequence[Record]) -> dict[str, Any]:
    if not records:
        return {}
    environment = records[0].environment
    system, _, machine = environment.platform.partition("-")
    return {
        "node": environment.device_kind,
        "processor": environment.device,
        "machine": machine,
        "system": system,
        "release": "",
        "python_implementation": "CPython",
        "python_version": environment.python,
        "cpu": {"brand_raw": environment.device},
    }


def _commit(records: Sequence[Record]) -> dict[str, Any]:
    revision = records[0].environment.git_revision if records else None
    found = revision or "unversioned"
    return {
        "id": found.removesuffix(CHANGED),
        "dirty": found.endswith(CHANGED),
        "branch": "unknown",
    }
