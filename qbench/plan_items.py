"""Which items a cell is asked for: what the suite measures, and what follows from its tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.finetune import methods
from qbench.precisions import precisions
from qbench.spec import Item

if TYPE_CHECKING:
    from qbench.record import Environment
    from qbench.sources.tuning_data import ResolvedTuningData
    from qbench.spec import Cell, TuningRef
    from qbench.suite import Suite

MERGED = "merged"
"""What an item is held against that is not held against the suite's reference."""
_OF_UNTUNED = ("weight_error",)
"""Measurements that say nothing of a tuned model: its weights are meant to differ."""
_COMPLETION_BATCH = 8


@dataclass(frozen=True)
class CellItems:
    """Makes the items of each cell of a suite."""

    suite: Suite
    measured: dict[str, list[Item]]
    """What `measure` asks for, by the model's name."""
    data: ResolvedTuningData | None
    """What is tuned on; None where nothing is."""

    def __call__(self, cell: Cell) -> list[Item]:
        """Every item of one cell, in the order they are taken."""
        measured = self.measured[cell.model.name]
        if cell.tuning is None:
            return [*measured, *self._of_test_split()]
        if cell.deploy is None:
            return [self._training(cell.tuning)]
        kept = [item for item in measured if item.measurement not in _OF_UNTUNED]
        return [
            *kept,
            *self._against_merged(cell.tuning, kept),
            *self._of_test_split(),
            *_adapters(cell),
        ]

    def _training(self, tuning: TuningRef) -> Item:
        data = None if self.data is None else self.data.model_dump(mode="json")
        params: dict[str, Any] = {
            "data": data,
            "method": tuning.method,
            "options": tuning.options,
            "seed": tuning.seed,
        }
        return Item(measurement="training", slug="training", params=params)

    def _of_test_split(self) -> list[Item]:
        """The loss on the test split's completions, and what is generated for its prompts."""
        if self.data is None:
            return []
        data = self.data.model_dump(mode="json")
        made = [
            Item(
                measurement="completion",
                slug="test",
                params={"data": data, "batch": _COMPLETION_BATCH},
            )
        ]
        options: Any = self.suite.measure.get("generation")
        if options is not None:
            from qbench.measures.generation import test_split_item

            made.append(test_split_item(options, data, self._scores()))
        return made

    def _scores(self) -> tuple[str, ...] | None:
        """The scores that a recipe of the suite's own names; None where the recipe has none."""
        recipe = None if self.data is None else self.data.options.recipe
        return getattr(recipe, "scores", None)

    def _against_merged(self, tuning: TuningRef, measured: list[Item]) -> list[Item]:
        """The divergence from the same tuning merged in 16 bits: what serving it so costs."""
        finetune = self.suite.finetune
        if finetune is None or MERGED not in finetune.deployments(tuning):
            return []
        if len(finetune.deployments(tuning)) == 1:
            return []
        return [
            item.model_copy(
                update={
                    "slug": f"{item.slug}-vs-merged",
                    "params": {**item.params, "against": MERGED},
                }
            )
            for item in measured
            if item.measurement == "quality" and item.against_reference
        ]


def _adapters(cell: Cell) -> list[Item]:
    """What several adapters on one base cost; once a tuning, where the adapter is attached."""
    if cell.deploy != "attached":
        return []
    return [Item(measurement="adapters", slug="several", params={"count": 4})]


def why_skipped(cell: Cell, environment: Environment) -> str | None:
    """Why a cell cannot run on this machine, or not at all; None if it can."""
    tuning = cell.tuning
    reason = precisions()[cell.precision.name].unavailable(environment)
    if tuning is None:
        return reason
    method = methods()[tuning.method]
    return (
        method.conflicts(tuning.precision, tuning.options)
        or method.unavailable(tuning.options, environment)
        or precisions()[tuning.precision.name].unavailable(environment)
        or reason
    )
