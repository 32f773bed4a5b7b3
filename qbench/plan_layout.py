"""Lays out each cell of a plan: its records' keys and places, its bytes by arithmetic, its skip.

The key of a record is the hash of its identity: everything that decides the numbers.

    model        fingerprint of its contents or commit, its revision, whether its own code is run
    precision    name and all options
    measurement  name and all parameters (of a text: the hash of its contents), the repeat
    protocol     version of how numbers are obtained
    versions     of the packages that decide the numbers
    device       its name; for latency and memory on a CPU, the number of threads too
    reference    key of the record it is compared with, for what is
    tuning       key of the training's record, and how the tuned model is served
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.cpu import compute_threads
from qbench.finetune.artifact import has_artifact
from qbench.job import Task
from qbench.plan_fit import why_cell_does_not_fit, why_item_does_not_fit
from qbench.plan_items import MERGED, why_not_taken, why_skipped
from qbench.precisions import stored
from qbench.predict.static import predicted_bytes
from qbench.record import PROTOCOL_VERSION, content_key
from qbench.store import record_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.record import Environment
    from qbench.spec import Cell, Item, ResolvedModel, StaticBytes
    from qbench.suite import Suite

IDENTITY_PACKAGES = (
    "torch",
    "transformers",
    "bitsandbytes",
    "peft",
    "torchao",
    "lm-eval",
    "accelerate",
    "tokenizers",
)


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

    @property
    def is_needed_by_others(self) -> bool:
        """Whether other cells need what it leaves in the cache."""
        return self.is_training or any(task.item.makes_states for task in self.tasks)

    @property
    def is_training(self) -> bool:
        """Whether it makes a tuned model, rather than serve one."""
        return self.cell.tuning is not None and self.cell.deploy is None


def references_first(suite: Suite, models: Mapping[str, ResolvedModel]) -> list[Cell]:
    """The suite's cells, model by model, each model's reference before the others."""
    order = list(models)

    def place(cell: Cell) -> tuple[bool, int, bool]:
        name = cell.model.name
        of_other = cell.model.original is not None
        return of_other, order.index(name), cell.label != _reference_of(suite, models[name])

    return sorted(suite.cells(), key=place)


def _reference_of(suite: Suite, model: ResolvedModel) -> str:
    """What the model's cells are compared with.

    A quantized checkpoint has nothing but itself, unless its original is named.
    """
    unquantized = model.quantization is None or model.stale_quantization
    if unquantized or model.ref.original is not None:
        return suite.reference
    labels = [one.label for one in suite.precisions if one.name == stored.NAME]
    return labels[0] if labels else suite.reference


class Layout:
    """Lays out cells one after another, what others refer to first."""

    def __init__(
        self, suite: Suite, environment: Environment, results: Path, *, unfit_too: bool = False
    ) -> None:
        """`unfit_too` leaves in what does not fit a GPU by arithmetic."""
        self._suite = suite
        # A GPU that is full costs a record; a machine that is full, whatever else runs on it.
        self._unfit_too = unfit_too and environment.device_type != "cpu"
        self._unfit_trainings: dict[tuple[str, str], str] = {}
        self._unfit_items: dict[tuple[str, str, str], str | None] = {}
        self._environment = environment
        self._results = results
        self._states_keys: dict[tuple[str, ...], str] = {}
        self._artifact_keys: dict[tuple[str, str], str] = {}

    def __call__(self, cell: Cell, model: ResolvedModel, items: list[Item]) -> PlannedCell:
        """One cell, after all that its keys hold."""
        of_other = cell.model.original is not None
        reference = not of_other and cell.label == _reference_of(self._suite, model)
        tasks = tuple(self._task(cell, model, item, reference=reference) for item in items)
        return PlannedCell(
            cell=cell,
            model=model,
            reference=reference,
            predicted=predicted_bytes(cell, model),
            skip=why_skipped(cell, model, self._environment) or self._why_unfit(cell, model),
            tasks=tasks,
            artifact_key=self._artifact_key(cell, tasks),
        )

    def _why_unfit(self, cell: Cell, model: ResolvedModel) -> str | None:
        """Why the device cannot hold the cell, or could not hold the training it comes from."""
        if self._unfit_too:
            return None
        reason = why_cell_does_not_fit(cell, model, self._environment)
        if cell.tuning is None:
            return reason
        place = (cell.model.name, cell.tuning.label)
        if cell.deploy is None:
            if reason is not None:
                self._unfit_trainings[place] = reason
            return reason
        of_training = self._unfit_trainings.get(place)
        if of_training is not None and not has_artifact(self._artifact_key(cell) or ""):
            return f"its training {cell.tuning.label} {of_training}"
        return reason

    def _artifact_key(self, cell: Cell, tasks: tuple[Task, ...] = ()) -> str | None:
        """The key of the training that a tuned cell is, or comes from."""
        if cell.tuning is None:
            return None
        place = (cell.model.name, cell.tuning.label)
        if cell.deploy is None:
            self._artifact_keys[place] = tasks[0].key
        return self._artifact_keys[place]

    def _task(self, cell: Cell, model: ResolvedModel, item: Item, *, reference: bool) -> Task:
        identity = _identity(cell, model, item, self._environment)
        if cell.deploy is not None:
            identity |= {"tuning": self._artifact_key(cell), "deploy": cell.deploy}
        of_model = model.ref.original or model.ref.name
        place: tuple[str, ...] = (of_model, item.measurement, item.slug)
        makes_states = reference
        held_against = _reference_of(self._suite, model)
        if item.params.get("against") == MERGED and cell.tuning is not None:
            place = (*place, cell.tuning.label)
            makes_states = cell.deploy == MERGED
            held_against = MERGED
        # An original may be measured on other windows, or lack the reference.
        is_held = item.against_reference and (makes_states or place in self._states_keys)
        if is_held and not makes_states:
            identity["reference"] = self._states_keys[place]
        key = content_key(identity)
        if is_held:
            if makes_states:
                self._states_keys[place] = key
            states = {"states_key": self._states_keys[place], "makes_states": makes_states}
            item = item.model_copy(update={**states, "held_against": held_against})
        path = record_path(
            self._results,
            self._suite.name,
            self._environment.device_kind,
            cell.slug,
            item,
            key,
        )
        return Task(
            item=item,
            key=key,
            identity=identity,
            path=str(path.absolute()),
            skip=why_not_taken(cell, item) or self._why_item_unfit(cell, model, item),
        )

    def _why_item_unfit(self, cell: Cell, model: ResolvedModel, item: Item) -> str | None:
        if self._unfit_too:
            return None
        place = (cell.slug, item.measurement, item.slug)
        if place not in self._unfit_items:  # every repeat takes the same
            self._unfit_items[place] = why_item_does_not_fit(cell, model, item, self._environment)
        return self._unfit_items[place]


def _identity(
    cell: Cell, model: ResolvedModel, item: Item, environment: Environment
) -> dict[str, Any]:
    timed = item.measurement in {"latency", "memory", "training", "adapters"}
    gpus = len(environment.gpus_memory_bytes)
    return {
        **({"threads": compute_threads()} if timed and environment.device_type == "cpu" else {}),
        "model": {
            "fingerprint": model.fingerprint,
            "revision": model.revision,
            "trust_remote_code": cell.model.trust_remote_code,
            **({"device_map": cell.model.device_map} if cell.model.device_map else {}),
            **({"gpus": gpus} if cell.model.device_map and gpus > 1 else {}),
        },
        "precision": {"name": cell.precision.name, "options": cell.precision.asked},
        "measurement": {
            "name": item.measurement,
            "params": item.asked,
            "repeat": item.repeat,
        },
        "protocol": PROTOCOL_VERSION,
        "versions": {
            name: environment.versions.get(name)
            for name in (*IDENTITY_PACKAGES, *stored.layer_packages(cell, model))
        },
        "device": environment.device,
    }
