"""Scores of lm-eval's tasks, item by item, on the model that is already loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.options import plain_options, typed_options
from qbench.core.spec import Frozen, Item
from qbench.measures.measurement import Measurement
from qbench.measures.tasks.fit import thinking_misfit
from qbench.measures.tasks.naming import asked_of_task, files_of, named_tasks, packages_of
from qbench.measures.tasks.options import TaskParams, TasksOptions
from qbench.measures.tasks.results import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.record import MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel, Outcome


@dataclass(frozen=True)
class Tasks(Measurement):
    """How well the model does what tasks ask."""

    name: str = "tasks"
    summary: str = "scores of lm-eval's tasks, item by item; two tasks are bundled"
    needs: tuple[str, ...] = ("lm-eval",)
    options: type[Frozen] = TasksOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def needs_of(self, item: Item) -> tuple[str, ...]:
        """With the packages that the task's own Python begins with and that are not here."""
        return (*self.needs, *packages_of(typed_options(TaskParams, item.params).task))

    def misfit(self, options: TasksOptions, model: ResolvedModel) -> Problem | None:
        """Thinking that the model's chat template knows nothing of."""
        return thinking_misfit(options, model)

    def items(self, options: TasksOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a task or group with a score of its own; of other groups, one a member.

        Raises `TextError` for a name that is not known, a folder that is not there, and an option
        that means nothing for the tasks.
        """
        named, _ = named_tasks(options, base)
        return [
            Item(
                measurement=self.name,
                slug=one.slug,
                params=plain_options(TaskParams(**one.params, batch=options.batch)),
            )
            for one in named
        ]

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The one task among them."""
        return asked_of_task(params, super().asked_as(params))

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Puts every item of the task, or of the group's tasks, to the model."""
        from qbench.measures.tasks.run import take  # with what a plan has no use for

        params = typed_options(TaskParams, item.params)
        return take(loaded, params, files_of(params.task, trust_code=loaded.trust_code))


TASKS = Tasks()
