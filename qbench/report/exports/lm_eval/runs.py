"""The records of tasks of a cell, as the calls of `lm_eval` that would have taken them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.compare.items import TASKS, task_of
from qbench.core.unchecked import as_mapping
from qbench.measures.tasks.data import DATA
from qbench.report.exports.tree import started

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from qbench.core.record import Metric, Record
    from qbench.report.exports.chosen import ExportedCell

_OF_ONE_TASK = ("task", "cluster")
"""Parameters that a task has for itself; all others a call has for all of its tasks."""


class Score(NamedTuple):
    """A metric of a task, as lm-eval names it."""

    name: str
    """As the record has it: `tasks.stdlib-choice.acc`."""
    short: str
    """As its details and series have it: `acc`, `exact_match@strict-match`."""

    @property
    def metric(self) -> str:
        """`acc`."""
        return self.short.partition("@")[0]

    @property
    def filter(self) -> str:
        """`none` where a task has no filter of a name."""
        return self.short.partition("@")[2] or "none"

    @property
    def key(self) -> str:
        """`acc,none`."""
        return f"{self.metric},{self.filter}"

    @property
    def stderr_key(self) -> str:
        """`acc_stderr,none`."""
        return f"{self.metric}_stderr,{self.filter}"


@dataclass(frozen=True)
class TaskRun:
    """Tasks that one call of `lm_eval` would take: alike in everything but the task."""

    of: ExportedCell
    records: tuple[Record, ...]
    """One a task, in the order they were taken."""

    @property
    def params(self) -> dict[str, Any]:
        """What all of its tasks were taken with."""
        return self.records[0].item.params

    @property
    def groups_first(self) -> list[Record]:
        """So that a task's own record, which holds more, replaces what its group's holds of it."""
        return sorted(self.records, key=lambda record: not members_of(record))

    @property
    def begun(self) -> datetime | None:
        """When the first task was begun."""
        return min(filter(None, map(started, self.records)), default=None)


def task_runs(one: ExportedCell) -> list[TaskRun]:
    """The calls that give the records of a cell's tasks, those that failed left out."""
    calls: dict[str, list[Record]] = {}
    for record in one.cell.records:
        if record.item.measurement in TASKS and record.status == "ok":
            shared = {
                name: value
                for name, value in record.item.params.items()
                if name not in _OF_ONE_TASK
            }
            call = [record.item.measurement, record.item.repeat, shared]
            calls.setdefault(json.dumps(call, sort_keys=True), []).append(record)
    return [TaskRun(one, tuple(_in_order(records))) for records in calls.values()]


def members_of(record: Record) -> dict[str, Any]:
    """The tasks of a group with their scores; nothing of a task."""
    return as_mapping(record.details.get("members"))


def data_of_task(record: Record, task: str) -> dict[str, Any]:
    """The data that a task's items were read from; nothing in a record from before it was kept."""
    return as_mapping(as_mapping(record.details.get(DATA)).get(task))


def scores_of(record: Record) -> list[tuple[Score, Metric]]:
    """The scores of a record with their metrics."""
    before = f"{record.item.measurement}.{task_of(record)}."
    return [
        (Score(metric.name, metric.name.removeprefix(before)), metric) for metric in record.metrics
    ]


def _in_order(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.started_at)
