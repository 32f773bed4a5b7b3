"""From a suite to what is to be run: cells, items, keys, order, skips and predicted bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from qbench.core.environment import detect_environment, find_device, why_not_the_gpu
from qbench.core.errors import ModelError, Problem, SuiteError, TextError
from qbench.core.store import REHEARSALS
from qbench.finetune import training_options
from qbench.finetune.options import misfit
from qbench.measures import measures
from qbench.plan.calibration import resolve_calibrations
from qbench.plan.cells import CellPlanner, PlannedCell
from qbench.plan.device_options import on_device
from qbench.plan.items import CellItems
from qbench.plan.job import Job, Task
from qbench.plan.keys import Keys, references_first
from qbench.plan.records import RecordsOnDisk
from qbench.plan.sensitivity import on_device as with_formats_on
from qbench.plan.sensitivity import with_formats
from qbench.plan.shards import cells_of_shard
from qbench.plan.suite.suite import Suite, make_suite
from qbench.plan.untrusted_code import untrusted_code_problems
from qbench.predict.devices import as_if_on
from qbench.sources.data.tuning import resolve_tuning_data
from qbench.sources.models.resolve import resolve_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from qbench.core.errors import StoreError
    from qbench.core.record import Environment, Status
    from qbench.core.spec import Cell, Item, ResolvedModel
    from qbench.plan.shards import Shard, ShardCells
    from qbench.plan.suite.written import Written
    from qbench.predict.devices import DeviceMemory
    from qbench.sources.data.tuning import ResolvedTuningData

MAX_RECORDS = 1_000_000
"""Measurements of a plan: each is a file."""
RETRIED: frozenset[Status] = frozenset({"crash", "timeout", "error"})
"""Statuses that a rerun takes again unless told otherwise; the others stand."""


@dataclass(frozen=True)
class Plan:
    """What a suite means on this machine."""

    suite: Suite
    device: str
    environment: Environment
    every: tuple[PlannedCell, ...]
    """All cells of the suite in its order."""
    selected: frozenset[str]
    """Slugs of those that are to be measured."""
    device_note: str | None = None
    """Why it is not the GPU that this machine has."""
    shard: ShardCells | None = None
    """Which part of the suite is selected; None where it is not shared out."""
    records: RecordsOnDisk = field(default_factory=RecordsOnDisk, compare=False, repr=False)
    """What there is of its tasks."""

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        """The cells to measure."""
        return tuple(cell for cell in self.every if cell.cell.slug in self.selected)

    @property
    def unselected(self) -> tuple[PlannedCell, ...]:
        """The suite's other cells."""
        return tuple(cell for cell in self.every if cell.cell.slug not in self.selected)

    @property
    def prerequisites(self) -> tuple[PlannedCell, ...]:
        """Cells that were not selected, but that selected ones may need."""
        return tuple(cell for cell in self.unselected if cell.is_needed_by_others)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all cells."""
        return tuple(task for cell in self.cells for task in cell.tasks)

    @property
    def open_tasks(self) -> tuple[Task, ...]:
        """Those of them that can be taken here: neither they nor their cells are skipped."""
        return tuple(
            task
            for cell in self.cells
            if cell.skip is None
            for task in cell.tasks
            if task.skip is None
        )

    def jobs(self, wanted: Callable[[Task], bool]) -> list[Job]:
        """The jobs that take the wanted tasks of the cells that can run, in order.

        One round a repeat, each over all cells, so that the repeats of a timing are interleaved
        and a slow drift of the machine meets every cell alike. What is measured apart from a model
        that the worker builds has a job of its own.
        """
        rounds = sorted({task.item.repeat for task in self.tasks})
        return [
            self._job(cell, tasks)
            for turn in rounds
            for cell in self.every
            if cell.skip is None and (cell.cell.slug in self.selected or cell.is_needed_by_others)
            for tasks in _by_process(
                task
                for task in cell.tasks
                if task.skip is None and task.item.repeat == turn and wanted(task)
            )
        ]

    def job_of(self, cell: PlannedCell) -> Job:
        """What builds the model of one of the cells, and measures nothing of it."""
        return self._job(cell, ())

    def skipped(self) -> list[tuple[Job, str]]:
        """What cannot be taken here, cells or items of them, as jobs not run, with the reason."""
        skipped = []
        for cell in self.cells:
            reasons = dict.fromkeys(cell.skip or task.skip for task in cell.tasks)
            for reason in filter(None, reasons):
                tasks = tuple(t for t in cell.tasks if (cell.skip or t.skip) == reason)
                skipped.append((self._job(cell, tasks), reason))
        return skipped

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
            artifact_key=cell.artifact_key,
            sensitivities_key=cell.sensitivities_key,
            rehearsal=self.suite.rehearsal,
            trust_code=self.suite.trust_code,
        )


def _by_process(tasks: Iterable[Task]) -> list[tuple[Task, ...]]:
    """The tasks that share a process: all that are taken of one model, and each other by itself."""
    shared: list[Task] = []
    alone: list[Task] = []
    for task in tasks:
        (alone if measures()[task.item.measurement].apart else shared).append(task)
    return [*([tuple(shared)] if shared else []), *((task,) for task in alone)]


def check_suite(source: Written) -> Suite:
    """The suite, its models and texts found; `SuiteError` with all problems at once.

    What cannot be found is looked for even where other parts of it cannot be read.
    """
    try:
        return make_suite(source)
    except SuiteError as error:
        if not isinstance(error.readable, Suite):
            raise
        models, problems = _resolve_models(error.readable)
        _, item_problems = _resolve_items(error.readable, models)
        # Defaults that do not fit may only stand for what could not be read.
        written = [one for one in item_problems if one.place in error.readable.lines]
        every = dict.fromkeys([*error.problems, *problems, *written])
        raise SuiteError(sorted(every, key=lambda problem: problem.line or 0)) from None


def make_plan(
    suite: Suite,
    results: Path,
    *,
    device: str | None = None,
    only: Sequence[str] = (),
    shard: Shard | None = None,
    keep_unfit: bool = False,
    gpu: DeviceMemory | None = None,
) -> Plan:
    """Resolves models and texts and lays out every record that the suite asks for.

    `device` is `cpu`, `cuda`, `cuda:N` or None for the first GPU, else the CPU. `only` keeps the
    cells that match one of the patterns, `shard` its part of those; `keep_unfit` leaves in what
    does not fit a GPU by arithmetic. `gpu` plans for a GPU that is not here: such a plan is not for
    running. Raises `SuiteError` with all problems, `DeviceError`.
    """
    chosen = find_device(device)
    environment = detect_environment(chosen)
    if gpu is not None:
        environment = as_if_on(environment, gpu)
    found = _resolve(suite, results, environment)
    selected = frozenset(cell.slug for cell in found.suite.select(only))
    plan_cell = CellPlanner(found.keys, found.environment, keep_unfit=keep_unfit)
    every = tuple(plan_cell(*asked) for asked in found.asked())
    part = None
    if shard is not None:
        part = cells_of_shard(shard, [cell for cell in every if cell.cell.slug in selected])
    return Plan(
        found.suite,
        chosen,
        found.environment,
        every=every,
        selected=selected if part is None else part.slugs,
        device_note=why_not_the_gpu(device) if gpu is None else None,
        shard=part,
    )


def expected_tasks(
    suite: Suite, results: Path, *, device: str | None = None, only: Sequence[str] = ()
) -> list[tuple[Cell, Task]]:
    """What `make_plan` would lay out, without its bytes and without what cannot run here."""
    found = _resolve(suite, results, detect_environment(find_device(device)))
    selected = {cell.slug for cell in found.suite.select(only)}
    # Also of the cells that were not selected, whose keys the others' keys hold.
    every = [(asked[0], found.keys.tasks(*asked)) for asked in found.asked()]
    return [(cell, task) for cell, tasks in every if cell.slug in selected for task in tasks]


def tasks_under(suite: Suite, results: Path, environment: Environment) -> list[tuple[Cell, Task]]:
    """What the suite's plan would lay out under conditions that need not be those here.

    Its threads are those of the CPU.
    """
    found = _resolve(suite, results, environment, environment.threads)
    return [(asked[0], task) for asked in found.asked() for task in found.keys.tasks(*asked)]


@dataclass(frozen=True)
class _Resolved:
    """A suite whose models, texts and data were found."""

    suite: Suite
    environment: Environment
    models: dict[str, ResolvedModel]
    items_of: CellItems
    keys: Keys

    def asked(self) -> Iterator[tuple[Cell, ResolvedModel, list[Item]]]:
        """Each cell with its model and what it is asked for, others' keys before those of it.

        A model's reference comes first among its cells, and a training before what it serves.
        """
        for written in references_first(self.suite, self.models):
            cell = on_device(written, self.environment)
            items = [with_formats_on(item, self.environment) for item in self.items_of(cell)]
            yield cell, self.models[cell.model.name], items


def _resolve(
    suite: Suite, results: Path, environment: Environment, threads: int | None = None
) -> _Resolved:
    models, problems = _resolve_models(suite)
    items, item_problems = _resolve_items(suite, models)
    data, data_problems = _resolve_data(suite, models)
    suite, text_problems = resolve_calibrations(suite, items, data)
    untrusted = untrusted_code_problems(suite, chain.from_iterable(items.values()))
    untrusted += _too_many_records(suite, items)
    every = [*problems, *item_problems, *data_problems, *text_problems, *untrusted]
    if every:
        raise SuiteError(every)
    folder = results / REHEARSALS if suite.rehearsal else results
    keys = Keys(suite, environment, folder, threads)
    items_of = CellItems(suite, items, data)
    return _Resolved(suite, environment, models, items_of, keys)


def damaged_records(plan: Plan) -> list[StoreError]:
    """The plan's record files that are cut short or no records; a run takes them again."""
    return [damage for task in plan.tasks if (damage := plan.records.damage(task)) is not None]


def _resolve_models(suite: Suite) -> tuple[dict[str, ResolvedModel], list[Problem]]:
    models: dict[str, ResolvedModel] = {}
    problems: list[Problem] = []
    for index, found in enumerate(resolve_models(suite.models)):
        if isinstance(found, ModelError):
            problems.append(suite.problem(f"models[{index}]", str(found)))
        else:
            models[found.ref.name] = found
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
            wrong = measurement.misfit(options, model)
            if wrong is not None:
                place = f"measure.{name}.{wrong.place}"
                problem = suite.problem(place, wrong.found, wrong.expected, wrong.remedy)
                problems[str(problem)] = problem
            try:
                items[model.ref.name] += measurement.items(options, model, suite.base)
            except TextError as error:
                fields = measurement.options.model_fields
                option = next((f".{one}" for one in ("text", "prompts") if one in fields), "")
                problem = suite.problem(f"measure.{name}{option}", str(error))
                problems[str(problem)] = problem
    items, wrong_formats = with_formats(suite, models, items)
    return items, [*problems.values(), *wrong_formats]


def _too_many_records(suite: Suite, items: dict[str, list[Item]]) -> list[Problem]:
    """A plan that no one could wait for, before it is laid out."""
    cells = Counter(cell.model.name for cell in suite.cells())
    count = sum(cells[name] * len(found) for name, found in items.items())
    if count <= MAX_RECORDS:
        return []
    remedy = "measure less, or write several suites"
    return [suite.problem("measure", f"{count} measurements", f"at most {MAX_RECORDS}", remedy)]


def _resolve_data(
    suite: Suite, models: dict[str, ResolvedModel]
) -> tuple[ResolvedTuningData | None, list[Problem]]:
    """What is tuned on; with what of the methods' options does not fit a model."""
    if suite.finetune is None:
        return None, []
    problems: dict[str, Problem] = {}
    for tuning in suite.finetune.tunings:
        for model in models.values():
            wrong = misfit(training_options(tuning), model)
            if wrong is not None:
                found = f"{wrong.place} {wrong.found}"
                problem = suite.problem("finetune.methods", found, wrong.expected, wrong.remedy)
                problems[str(problem)] = problem
    try:
        data = resolve_tuning_data(suite.finetune.data, base=suite.base)
    except TextError as error:
        problem = suite.problem("finetune.data", str(error))
        return None, [*problems.values(), problem]
    return data, list(problems.values())
