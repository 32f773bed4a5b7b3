"""Lays out each cell of a plan: its records' keys and places, its bytes by arithmetic, its skip.

The key of a record is the hash of its identity: everything that decides the numbers.

    model        fingerprint of its contents or commit, its revision, whether its own code is run
    precision    name and all options
    measurement  name and all parameters (of a text: the hash of its contents), the repeat
    protocol     version of how numbers are obtained
    versions     of the packages that decide the numbers
    device       its name; for latency and memory on a CPU, the number of threads too
    reference    key of the record it is held against, for what is
    tuning       key of the training's record, and how the tuned model is served
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.environment import compute_threads
from qbench.finetune.adapter_bytes import adapter_static_bytes
from qbench.job import Task
from qbench.plan_items import MERGED, why_skipped
from qbench.precisions import precisions
from qbench.record import PROTOCOL_VERSION, content_key
from qbench.store import record_path

if TYPE_CHECKING:
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
        is_training = self.cell.tuning is not None and self.cell.deploy is None
        return is_training or any(task.item.makes_states for task in self.tasks)


class Layout:
    """Lays out cells one after another, what others refer to first."""

    def __init__(self, suite: Suite, environment: Environment, results: Path) -> None:
        self._suite = suite
        self._environment = environment
        self._results = results
        self._states_keys: dict[tuple[str, ...], str] = {}
        self._artifact_keys: dict[tuple[str, str], str] = {}

    def __call__(self, cell: Cell, model: ResolvedModel, items: list[Item]) -> PlannedCell:
        """One cell, after all that its keys hold."""
        reference = cell.label == self._suite.reference
        tasks = tuple(self._task(cell, model, item, reference=reference) for item in items)
        return PlannedCell(
            cell=cell,
            model=model,
            reference=reference,
            predicted=predicted_bytes(cell, model),
            skip=why_skipped(cell, self._environment),
            tasks=tasks,
            artifact_key=self._artifact_key(cell, tasks),
        )

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
        place: tuple[str, ...] = (model.ref.name, item.measurement, item.slug)
        makes_states = reference
        if item.params.get("against") == MERGED and cell.tuning is not None:
            place = (*place, cell.tuning.label)
            makes_states = cell.deploy == MERGED
        if item.against_reference and not makes_states:
            identity["reference"] = self._states_keys[place]
        key = content_key(identity)
        if item.against_reference:
            if makes_states:
                self._states_keys[place] = key
            states = {"states_key": self._states_keys[place], "makes_states": makes_states}
            item = item.model_copy(update=states)
        path = record_path(
            self._results,
            self._suite.name,
            self._environment.device_kind,
            cell.slug,
            item,
            key,
        )
        return Task(item=item, key=key, identity=identity, path=str(path.absolute()))


def predicted_bytes(cell: Cell, model: ResolvedModel) -> StaticBytes | None:
    """Static bytes by arithmetic; None for a training, or where the shapes are not known."""
    if model.shape is None:
        return None
    base = precisions()[cell.precision.name].storage(model.shape, cell.precision.options)
    if cell.tuning is None:
        return base
    if cell.deploy is None:
        return None
    adapters = adapter_static_bytes(
        model.shape, model.architecture, cell.tuning, cell.deploy, cell.precision
    )
    return None if adapters is None else base.model_copy(update={"adapters": adapters})


def _identity(
    cell: Cell, model: ResolvedModel, item: Item, environment: Environment
) -> dict[str, Any]:
    timed = item.measurement in {"latency", "memory", "training", "adapters"}
    return {
        **({"threads": compute_threads()} if timed and environment.device_type == "cpu" else {}),
        "model": {
            "fingerprint": model.fingerprint,
            "revision": model.revision,
            "trust_remote_code": cell.model.trust_remote_code,
        },
        "precision": {"name": cell.precision.name, "options": cell.precision.options},
        "measurement": {
            "name": item.measurement,
            "params": item.asked,
            "repeat": item.repeat,
        },
        "protocol": PROTOCOL_VERSION,
        "versions": {name: environment.versions.get(name) for name in IDENTITY_PACKAGES},
        "device": environment.device,
    }
