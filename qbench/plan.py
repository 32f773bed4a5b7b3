"""From a suite to what is to be run: cells, items, keys, order, skips and predicted bytes.

The key of a record is the hash of its identity: everything that decides the numbers.

    model        fingerprint of its contents or commit, its revision, whether its own code is run
    precision    name and all options
    measurement  name and all parameters (of a text: the hash of its contents), the repeat
    protocol     version of how numbers are obtained
    versions     of the packages that decide the numbers
    device       its name; for latency and memory on a CPU, the number of threads too
    reference    key of the reference's record, for what is held against the reference
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.environment import compute_threads, detect_environment, find_device
from qbench.errors import ModelError, Problem, StoreError, SuiteError, TextError
from qbench.job import Job, Task
from qbench.measures import measures
from qbench.precisions import precisions
from qbench.record import PROTOCOL_VERSION, content_key
from qbench.sources.models import resolve_model
from qbench.store import DamagedRecordError, read_record, record_path
from qbench.suite import Suite, load_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.record import Environment, Record, Status
    from qbench.spec import Cell, Item, ResolvedModel, StaticBytes

RETRIED: frozenset[Status] = frozenset({"crash", "timeout", "error"})
"""Statuses that a rerun takes again unless told otherwise; the others stand."""

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


@dataclass(frozen=True)
class Plan:
    """What a suite means on this machine."""

    suite: Suite
    device: str
    environment: Environment
    cells: tuple[PlannedCell, ...]
    unselected: tuple[PlannedCell, ...] = ()
    """The suite's cells that were not selected; the states of a reference may be needed."""

    @property
    def references(self) -> tuple[PlannedCell, ...]:
        """Reference cells that were not selected."""
        return tuple(cell for cell in self.unselected if cell.reference)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all cells."""
        return tuple(task for cell in self.cells for task in cell.tasks)

    def jobs(self, wanted: Callable[[Task], bool]) -> list[Job]:
        """The jobs that take the wanted tasks of the cells that can run, in order.

        One round a repeat, each over all cells, so that the repeats of a timing are interleaved
        and a slow drift of the machine meets every cell alike.
        """
        rounds = sorted({task.item.repeat for task in self.tasks})
        jobs = (
            self._job(cell, tuple(t for t in cell.tasks if t.item.repeat == turn and wanted(t)))
            for turn in rounds
            for cell in (*self.references, *self.cells)
            if cell.skip is None
        )
        return [job for job in jobs if job.tasks]

    def skipped(self) -> list[tuple[Job, str]]:
        """The cells that cannot run here, each as a job that is not run, with the reason."""
        return [(self._job(cell, cell.tasks), cell.skip) for cell in self.cells if cell.skip]

    def _job(self, cell: PlannedCell, tasks: tuple[Task, ...]) -> Job:
        return Job(
            suite=self.suite.name,
            cell=cell.cell,
            reference=cell.reference,
            model=cell.model,
            predicted=cell.predicted,
            device=self.device,
            environment=self.environment,
            tasks=tasks,
        )


def load_checked_suite(path: Path) -> Suite:
    """The suite of a file, its models and texts found; `SuiteError` with all problems at once.

    What cannot be found is looked for even where other parts of the file cannot be read.
    """
    try:
        return load_suite(path)
    except SuiteError as error:
        if not isinstance(error.readable, Suite):
            raise
        models, problems = _resolve_models(error.readable)
        _, item_problems = _resolve_items(error.readable, models)
        # Defaults that do not fit may only stand for what could not be read.
        written = [one for one in item_problems if one.path in error.readable.lines]
        every = dict.fromkeys([*error.problems, *problems, *written])
        raise SuiteError(sorted(every, key=lambda problem: problem.line or 0)) from None


def make_plan(
    suite: Suite, results: Path, *, device: str | None = None, only: Sequence[str] = ()
) -> Plan:
    """Resolves models and texts and lays out every record that the suite asks for.

    `device` is `cpu`, `cuda`, `cuda:N` or None for the first GPU, else the CPU. `only` keeps the
    cells that match one of the patterns. Raises `SuiteError` with all problems, `DeviceError`.
    """
    chosen_device = find_device(device)
    environment = detect_environment(chosen_device)
    models, problems = _resolve_models(suite)
    items, item_problems = _resolve_items(suite, models)
    if problems or item_problems:
        raise SuiteError([*problems, *item_problems])
    selected = suite.select(only)
    lay_out = _Layout(suite, environment, results)
    # A model's reference comes first among its cells: the others' keys hold its own.
    cells = [
        lay_out(cell, models[cell.model.name], items[cell.model.name]) for cell in suite.cells()
    ]
    return Plan(
        suite,
        chosen_device,
        environment,
        cells=tuple(cell for cell in cells if cell.cell in selected),
        unselected=tuple(cell for cell in cells if cell.cell not in selected),
    )


class _Layout:
    """Lays out cells one after another, each model's reference first."""

    def __init__(self, suite: Suite, environment: Environment, results: Path) -> None:
        self._suite = suite
        self._environment = environment
        self._results = results
        self._reference_keys: dict[tuple[str, str, str], str] = {}

    def __call__(self, cell: Cell, model: ResolvedModel, items: list[Item]) -> PlannedCell:
        precision = precisions()[cell.precision.name]
        predicted = None
        if model.shape is not None:
            predicted = precision.storage(model.shape, cell.precision.options)
        reference = cell.precision.label == self._suite.reference
        return PlannedCell(
            cell=cell,
            model=model,
            reference=reference,
            predicted=predicted,
            skip=precision.unavailable(self._environment),
            tasks=tuple(self._task(cell, model, item, reference=reference) for item in items),
        )

    def _task(self, cell: Cell, model: ResolvedModel, item: Item, *, reference: bool) -> Task:
        identity = _identity(cell, model, item, self._environment)
        place = (model.ref.name, item.measurement, item.slug)
        if item.against_reference and not reference:
            identity["reference"] = self._reference_keys[place]
        key = content_key(identity)
        if item.against_reference:
            if reference:
                self._reference_keys[place] = key
            item = item.model_copy(update={"states_key": self._reference_keys[place]})
        path = record_path(
            self._results,
            self._suite.name,
            self._environment.device_kind,
            cell.slug,
            item,
            key,
        )
        return Task(item=item, key=key, identity=identity, path=str(path.absolute()))


def record_on_disk(task: Task) -> Record | None:
    """The task's record; a damaged file counts as none. Raises `StoreError` for a newer one."""
    try:
        return read_record(Path(task.path))
    except DamagedRecordError:
        return None


def damaged_records(plan: Plan) -> list[StoreError]:
    """The plan's record files that are cut short or no records; a run takes them again."""
    damaged: list[StoreError] = []
    for task in plan.tasks:
        try:
            read_record(Path(task.path))
        except DamagedRecordError as error:
            damaged.append(error)
    return damaged


def _resolve_models(suite: Suite) -> tuple[dict[str, ResolvedModel], list[Problem]]:
    models: dict[str, ResolvedModel] = {}
    problems: list[Problem] = []
    for index, ref in enumerate(suite.models):
        try:
            models[ref.name] = resolve_model(ref)
        except ModelError as error:
            problems.append(suite.problem(f"models[{index}]", str(error)))
    return models, problems


def _resolve_items(
    suite: Suite, models: dict[str, ResolvedModel]
) -> tuple[dict[str, list[Item]], list[Problem]]:
    """Every model's items, by the model's name."""
    items: dict[str, list[Item]] = {name: [] for name in models}
    problems: dict[str, Problem] = {}
    for name, options in suite.measure.items():
        measurement = measures()[name]
        for model in models.values():
            misfit = measurement.misfit(options, model)
            if misfit is not None:
                option, found, expected, remedy = misfit
                path = f"measure.{name}.{option}"
                problem = suite.problem(path, found, expected, remedy)
                problems[str(problem)] = problem
            try:
                items[model.ref.name] += measurement.items(options, model, suite.base)
            except TextError as error:
                fields = measurement.options.model_fields
                option = next((f".{one}" for one in ("text", "prompts") if one in fields), "")
                problem = suite.problem(f"measure.{name}{option}", str(error))
                problems[str(problem)] = problem
    return items, list(problems.values())


def _identity(
    cell: Cell, model: ResolvedModel, item: Item, environment: Environment
) -> dict[str, Any]:
    timed = item.measurement in {"latency", "memory"}
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
