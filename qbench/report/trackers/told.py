"""What of a record goes to a tracker: numbers by name, words, and the curves of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.compare.selection import select
from qbench.core.spec import slugify
from qbench.report.figures import finite_value
from qbench.report.findings import findings, which
from qbench.report.trackers.run import TrackedRun, run_of_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from qbench.core.record import Record

STEP_LOSS = "training/step_loss"
LEARNING_RATE = "training/step_learning_rate"
VALIDATION_LOSS = "training/validation_loss"
"""Curves of a training by its steps, from 0; an evaluation stands at the steps before it."""


class Point(NamedTuple):
    """What a training has to tell of one step."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Entry:
    """A record, as a tracker takes it."""

    key: str
    """The record's."""
    taken: str
    """When it was taken, as the record has it."""
    step: int
    """Which of several processes it is of, from 0."""
    numbers: dict[str, float]
    words: dict[str, str]
    path: Path


@dataclass(frozen=True)
class Curve:
    """A part of a training's curves."""

    steps: tuple[Point, ...]
    """Loss and learning rate of each step."""
    validation: tuple[Point, ...]

    def beyond(self, steps: int, validated: frozenset[int]) -> list[Point]:
        """What is not among the first so many steps, nor among those evaluations."""
        new = [point for point in self.steps if point.step >= steps]
        return [*new, *(point for point in self.validation if point.step not in validated)]


def curve_of_event(event: dict[str, Any]) -> Curve:
    """What an event of a worker tells of its training; see `qbench.running.worker`."""
    return _curve(event["first"], event["loss"], event["learning_rate"], event["validation"])


def curve_of_record(record: Record) -> Curve | None:
    """The whole curve of a training; None for a record that holds none."""
    series = record.series
    if "step_loss" not in series:
        return None
    steps = map(int, series.get("validation_step", []))
    validation = list(zip(steps, series.get("validation_loss", []), strict=False))
    return _curve(0, series["step_loss"], series.get("step_learning_rate", []), validation)


def _curve(
    first: int,
    losses: Sequence[float],
    rates: Sequence[float],
    validation: Iterable[Sequence[Any]],
) -> Curve:
    points = []
    for at, loss in enumerate(losses):
        values = {STEP_LOSS: loss}
        if at < len(rates):
            values[LEARNING_RATE] = rates[at]
        points.append(Point(first + at, values))
    return Curve(
        tuple(points),
        tuple(Point(int(step), {VALIDATION_LOSS: loss}) for step, loss in validation),
    )


def entry_of(record: Record, path: Path) -> Entry:
    """A record that lies there."""
    return Entry(
        record.key,
        record.started_at,
        record.item.repeat,
        numbers_of(record),
        words_of(record),
        path,
    )


def metric_name(record: Record, metric: str) -> str:
    """The name of a metric among all that a cell's run holds.

    No name is the beginning of another one up to a `/`: MLflow keeps them as files in folders.
    """
    return f"{_place(record)}/{slugify(metric)}"


def _place(record: Record) -> str:
    return f"{record.item.measurement}/{slugify(record.item.slug)}"


def numbers_of(record: Record) -> dict[str, float]:
    """Its metrics that have a value, in the units that the record has them in."""
    return {
        metric_name(record, metric.name): value
        for metric in record.metrics
        if (value := finite_value(metric)) is not None
    }


def words_of(record: Record) -> dict[str, str]:
    """Its status, the reasons of what is missing, and the units of its numbers."""
    place = _place(record)
    if record.item.repeat:
        place = f"{place}.r{record.item.repeat}"
    words: dict[str, str] = {f"status/{place}": record.status}
    if record.reason is not None:
        words[f"reason/{place}"] = record.reason
    for metric in record.metrics:
        if finite_value(metric) is None:
            why = metric.reason or "the value is not a finite number"
            words[f"missing/{metric_name(record, metric.name)}"] = why
    units = {metric.name: metric.unit for metric in record.metrics}
    if units:
        text = ", ".join(f"{name}: {unit}" for name, unit in units.items())
        words[f"units/{record.item.measurement}"] = text
    if record.rehearsal:
        words["rehearsal"] = "; ".join(record.rehearsal)
    return words


def found_of(records: Sequence[Record]) -> dict[TrackedRun, dict[str, float]]:
    """What a report finds of each cell's numbers: over its processes, with interval bounds.

    `NAME.low` and `NAME.high` are the ends of the 95 % interval where there is one, and
    `NAME.pooled` the median over several processes, which the report shows.
    """
    made: dict[TrackedRun, dict[str, float]] = {}
    for table in select(records).tables:
        found = findings(table)
        for record in (one for cell in table.every for one in cell.records):
            values = made.setdefault(run_of_record(record), {})
            for metric in record.metrics:
                told = found.get((which(record), metric.name), {})
                name = metric_name(record, metric.name)
                if told.get("low") is not None and told["low"] < told["high"]:
                    values |= {f"{name}.low": told["low"], f"{name}.high": told["high"]}
                if record.item.repeat and told.get("pooled") is not None:
                    values[f"{name}.pooled"] = told["pooled"]
    return made
