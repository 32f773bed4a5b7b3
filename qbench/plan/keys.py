"""The tasks of each cell of a plan: which record each leaves, by its key, and where.

The key of a record is the hash of its identity: everything that decides the numbers.

    model        fingerprint of its contents or commit, its revision, whether its own code is run
    precision    name and all options
    measurement  name and all parameters (of a text: the hash of its contents), the repeat
    protocol     version of how numbers are obtained
    versions     of the packages that decide the numbers; of a measurement that starts other
                 programs, those that it needs too
    kv_cache     of a cell with a quantized cache: its kind, bits, groups and package
    device       its name; for latency and memory on a CPU, the number of threads too
    reference    key of the record it is compared with, for what is
    tuning       key of the training's record, and how the tuned model is served
    sensitivities  of a mix that is found: key of the record of what it is found from
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from qbench.core.cpu import compute_threads
from qbench.core.packages import version_in
from qbench.core.record import PROTOCOL_VERSION, content_key
from qbench.core.store import record_path
from qbench.measures import measures, of_machine
from qbench.measures.sensitivity.options import SENSITIVITY, needs_of_formats
from qbench.plan.items import MERGED
from qbench.plan.job import Task
from qbench.precisions import options_of, precisions
from qbench.precisions.kv_cache import kv_cache_named
from qbench.precisions.mixed.sought import is_sought

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.record import Environment
    from qbench.core.spec import Cell, Item, ResolvedModel
    from qbench.plan.suite.suite import Suite

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


def references_first(suite: Suite, models: Mapping[str, ResolvedModel]) -> list[Cell]:
    """The suite's cells, model by model, each model's reference before the others."""
    order = list(models)

    def place(cell: Cell) -> tuple[bool, int, bool]:
        name = cell.model.name
        of_other = cell.model.original is not None
        return of_other, order.index(name), cell.label != reference_of(suite, models[name])

    return sorted(suite.cells(), key=place)


def reference_of(suite: Suite, model: ResolvedModel) -> str:
    """What the model's cells are compared with.

    A quantized checkpoint has nothing but itself, unless its original is named.
    """
    unquantized = model.quantization is None or model.stale_quantization
    if unquantized or model.ref.original is not None:
        return suite.reference
    labels = [one.label for one in suite.precisions if precisions()[one.name].takes_quantized]
    return labels[0] if labels else suite.reference


class Keys:
    """Names the records of cells one after another, what others refer to first."""

    def __init__(
        self, suite: Suite, environment: Environment, results: Path, threads: int | None = None
    ) -> None:
        """`threads` are the CPU's; those that torch will have here unless given."""
        self._threads = threads or compute_threads()
        self._suite = suite
        self._environment = environment
        self._results = results
        self._version = cache(partial(version_in, environment=environment))
        self._states_keys: dict[tuple[str, ...], str] = {}
        self._artifact_keys: dict[tuple[str, str], str] = {}
        self._sensitivities_keys: dict[str, str] = {}

    def tasks(self, cell: Cell, model: ResolvedModel, items: list[Item]) -> tuple[Task, ...]:
        """The tasks of one cell, after all that its keys hold."""
        tasks = tuple(self._task(cell, model, item) for item in items)
        if cell.training is not None:
            self._artifact_keys[cell.model.name, cell.training.label] = tasks[0].key
        if self.is_reference(cell, model) and cell.kv_cache is None:
            for task in tasks:
                if task.item.measurement == SENSITIVITY:
                    self._sensitivities_keys[cell.model.name] = task.key
        return tasks

    def artifact_key(self, cell: Cell) -> str | None:
        """The key of the training that a tuned cell is, or comes from."""
        if cell.tuning is None:
            return None
        return self._artifact_keys[cell.model.name, cell.tuning.label]

    def sensitivities_key(self, cell: Cell) -> str | None:
        """The key of what the cell's mix is found from; None for any other cell."""
        found = cell.tuning is None and is_sought(cell.precision)
        return self._sensitivities_keys.get(cell.model.name) if found else None

    def is_reference(self, cell: Cell, model: ResolvedModel) -> bool:
        """Whether the model's other cells are compared with this one."""
        of_other = cell.model.original is not None
        return not of_other and cell.label == reference_of(self._suite, model)

    def _task(self, cell: Cell, model: ResolvedModel, item: Item) -> Task:
        identity = self._identity(cell, model, item)
        if cell.deploy is not None:
            identity |= {"tuning": self.artifact_key(cell), "deploy": cell.deploy}
        found_from = self.sensitivities_key(cell)
        if found_from is not None:
            identity["sensitivities"] = found_from
        of_model = model.ref.original or model.ref.name
        place: tuple[str, ...] = (of_model, item.measurement, item.slug)
        makes_states = self.is_reference(cell, model)
        held_against = reference_of(self._suite, model)
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
        return Task(item=item, key=key, identity=identity, path=str(path.absolute()))

    def _identity(self, cell: Cell, model: ResolvedModel, item: Item) -> dict[str, Any]:
        environment = self._environment
        timed = of_machine(item.measurement)
        gpus = len(environment.gpus_memory_bytes)
        cache = kv_cache_named(cell.kv_cache)
        packages = precisions()[cell.precision.name].needs_of(model, options_of(cell.precision))
        measurement = measures()[item.measurement]
        others = measurement.needs if measurement.apart else needs_of_formats(item)
        on_cpu = environment.device_type == "cpu"
        return {
            **({"threads": self._threads} if timed and on_cpu else {}),
            "model": {
                "fingerprint": model.fingerprint,
                "revision": model.revision,
                "trust_remote_code": cell.model.trust_remote_code,
                **({"device_map": cell.model.device_map} if cell.model.device_map else {}),
                **({"gpus": gpus} if cell.model.device_map and gpus > 1 else {}),
            },
            "precision": {
                "name": cell.precision.name,
                "options": cell.precision.options_by_contents,
            },
            **({} if cache is None else {"kv_cache": cache.identity}),
            "measurement": {
                "name": item.measurement,
                "params": item.params_by_contents,
                "repeat": item.repeat,
            },
            "protocol": PROTOCOL_VERSION,
            "versions": {
                name: self._version(name)
                for name in (
                    *IDENTITY_PACKAGES,
                    *packages,
                    *others,
                    *(cache.needs if cache else ()),
                )
            },
            "device": environment.device,
        }
