"""Plans each cell: its tasks, its bytes by arithmetic, and why it is skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.finetune.artifact import has_artifact
from qbench.plan.forward import why_not_run_so
from qbench.plan.items import why_beyond_context, why_not_taken, why_skipped
from qbench.plan.mixes import known_mix
from qbench.plan.sensitivity import why_not_measured
from qbench.plan.unfit import why_cell_does_not_fit, why_item_does_not_fit
from qbench.precisions.mixed.sought import is_sought
from qbench.predict.static import predicted_bytes

if TYPE_CHECKING:
    from qbench.core.record import Environment
    from qbench.core.spec import Cell, Item, ResolvedModel, StaticBytes
    from qbench.plan.job import Task
    from qbench.plan.keys import Keys
    from qbench.predict.found_mix import FoundMix


@dataclass(frozen=True)
class PlannedCell:
    """A cell with all that is asked of it, whether or not it is already on disk."""

    cell: Cell
    model: ResolvedModel
    reference: bool
    predicted: StaticBytes | None
    skip: str | None
    """Why it cannot run on this machine; None if it can."""
    tasks: tuple[Task, ...]
    artifact_key: str | None = None
    """Key of the training's record, which names the tuned model; None for an untuned cell."""
    sensitivities_key: str | None = None
    """Key of the reference's record whose table its mix is found from; None for any other cell."""
    found: tuple[Cell, FoundMix] | None = None
    """The cell with its mix in place of a budget, and what it is to cost: where the table is in the
    cache. Else what is known of a mix that is to be found are the most bytes that it may take."""

    @property
    def held(self) -> Cell:
        """The cell as its bytes are reckoned: with its mix, where that is known."""
        return self.cell if self.found is None else self.found[0]

    @property
    def is_needed_by_others(self) -> bool:
        """Whether other cells need what it leaves in the cache."""
        return self.cell.is_training or any(task.item.makes_states for task in self.tasks)


class CellPlanner:
    """Plans cells one after another, what others refer to first."""

    def __init__(self, keys: Keys, environment: Environment, *, keep_unfit: bool = False) -> None:
        """`keep_unfit` leaves in what does not fit a GPU by arithmetic."""
        self._keys = keys
        self._environment = environment
        # A GPU that is full costs a record; a machine that is full, whatever else runs on it.
        self._keep_unfit = keep_unfit and environment.device_type != "cpu"
        self._unfit_trainings: dict[tuple[str, str], str] = {}
        self._unfit_items: dict[tuple[str, str, str], str | None] = {}
        self._no_tables: dict[str, str] = {}

    def __call__(self, cell: Cell, model: ResolvedModel, items: list[Item]) -> PlannedCell:
        """One cell, after all that its keys hold."""
        tasks = tuple(
            task.model_copy(
                update={
                    "skip": why_left_out(cell, model, task.item, self._environment)
                    or self._why_item_unfit(cell, model, task.item)
                }
            )
            for task in self._keys.tasks(cell, model, items)
        )
        self._no_tables |= {task.key: task.skip for task in tasks if task.skip is not None}
        skip = why_skipped(cell, model, self._environment) or self._why_not_found(cell)
        key = self._keys.sensitivities_key(cell)
        found = known_mix(cell, model, key) if skip is None else None
        held = cell if found is None else found[0]
        planned = PlannedCell(
            cell=cell,
            model=model,
            reference=self._keys.is_reference(cell, model),
            predicted=predicted_bytes(held, model),
            skip=skip or self._why_unfit(held, model),
            tasks=tasks,
            artifact_key=self._keys.artifact_key(cell),
            sensitivities_key=key,
            found=found,
        )
        if planned.skip is not None:
            self._no_tables |= dict.fromkeys((task.key for task in tasks), planned.skip)
        return planned

    def _why_not_found(self, cell: Cell) -> str | None:
        """Why there is nothing that the cell's mix could be found from; None if there will be."""
        if not is_sought(cell.precision):
            return None
        if cell.tuning is not None:
            return (
                "a mix is found from the sensitivities of the model as it is, not of a tuned one;"
                " write its layers by hand"
            )
        key = self._keys.sensitivities_key(cell)
        if key is None:
            return (
                "its mix is found from the sensitivities of the reference, which are not measured"
                f" of {cell.model.name}"
            )
        reason = self._no_tables.get(key)
        return reason and f"its mix is found from the sensitivities of the reference: {reason}"

    def _why_unfit(self, cell: Cell, model: ResolvedModel) -> str | None:
        """Why the device cannot hold the cell, or could not hold the training it comes from."""
        if self._keep_unfit:
            return None
        reason = why_cell_does_not_fit(cell, model, self._environment)
        if cell.tuning is None:
            return reason
        place = (cell.model.name, cell.tuning.label)
        if cell.is_training:
            if reason is not None:
                self._unfit_trainings[place] = reason
            return reason
        of_training = self._unfit_trainings.get(place)
        if of_training is not None and not has_artifact(self._keys.artifact_key(cell) or ""):
            return f"its training {cell.tuning.label} {of_training}"
        return reason

    def _why_item_unfit(self, cell: Cell, model: ResolvedModel, item: Item) -> str | None:
        if self._keep_unfit:
            return None
        place = (cell.slug, item.measurement, item.slug)
        if place not in self._unfit_items:  # every repeat takes the same
            self._unfit_items[place] = why_item_does_not_fit(cell, model, item, self._environment)
        return self._unfit_items[place]


def why_left_out(
    cell: Cell, model: ResolvedModel, item: Item, environment: Environment
) -> str | None:
    """Why an item of a cell is not taken, whatever memory there is; None if it is."""
    return (
        why_not_taken(cell, item)
        or why_beyond_context(model, item)
        or why_not_run_so(cell, item, environment)
        or why_not_measured(item, environment)
    )
