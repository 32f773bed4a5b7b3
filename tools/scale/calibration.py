"""The arithmetic held against what an H200 took: the published records of a 7B shape."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.store import read_folder
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from qbench.predict.devices import parse_memory
from tools.scale.durations import item_s

if TYPE_CHECKING:
    from qbench.core.spec import Cell, Item

_REPOSITORY = Path(__file__).parents[2]
_RECORDS = _REPOSITORY / "results" / "published" / "mistral-shape" / "nvidia-h200"


def ratios() -> dict[str, list[float]]:
    """By measurement, for each record the predicted seconds over those that it took."""
    records = read_folder(_RECORDS)[0]
    taken_s = {_place(one.cell, one.item): one.duration_s for one in records if one.duration_s}
    suite = load_suite(_REPOSITORY / "suites" / "mistral-shape.yaml")
    plan = make_plan(suite, _REPOSITORY / "results" / "published", gpu=parse_memory("h200"))
    found: dict[str, list[float]] = {}
    for job in plan.jobs(lambda task: task.skip is None):
        for task in job.tasks:
            seconds = taken_s.get(_place(job.cell, task.item))
            if seconds:
                ratio = item_s(job, task.item) / seconds
                found.setdefault(task.item.measurement, []).append(ratio)
    return found


def calibration_rows() -> list[tuple[str, ...]]:
    """Measurement, records, and the median and the extremes of the ratios; footprints apart."""
    return [
        (name, str(len(each)), *(f"{value:.2f}" for value in _three(each)))
        for name, each in ratios().items()
        if name != "footprint"
    ]


def _three(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def _place(cell: Cell, item: Item) -> tuple[str, str, str, int]:
    return cell.slug, item.measurement, item.slug, item.repeat
