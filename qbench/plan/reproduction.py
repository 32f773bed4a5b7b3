"""What measuring records again would be here: a suite that is planned, not run.

suite of the records → planned under their own conditions: does it ask for the same?
                     → planned here: which keys, what is skipped, which conditions differ
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.cpu import compute_threads
from qbench.core.environment import detect_environment, find_device, variables_set
from qbench.core.errors import SuiteError
from qbench.core.packages import version_in
from qbench.core.record import PROTOCOL_VERSION, identity_changes
from qbench.core.unchecked import as_mapping
from qbench.plan.conditions_here import conditions_here
from qbench.plan.plan import make_plan, tasks_under
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import load_suite_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Environment, Record
    from qbench.core.spec import Cell, Item
    from qbench.plan.conditions_here import ConditionHere
    from qbench.plan.job import Task
    from qbench.plan.plan import Plan
    from qbench.plan.suite.restated import Restated
    from qbench.plan.suite.suite import Suite

_NOWHERE = Path("results")
"""No record is looked for: a plan alone names keys."""

Place = tuple[str, str, str, int]


@dataclass(frozen=True)
class Again:
    """A record, and what would be taken in its place here."""

    record: Record
    task: Task | None
    """None where the plan here could not be made, or does not ask for it."""
    skip: str | None
    """Why it is not taken here; None if it is."""
    unlike: dict[str, tuple[Any, Any]]
    """What of the identity the suite says otherwise under the record's own conditions, new and old;
    nothing where it has the same key."""

    @property
    def same_key(self) -> bool:
        """Whether a run here leaves a record under the same key."""
        return self.task is not None and self.task.key == self.record.key


@dataclass(frozen=True)
class Reproduction:
    """A suite that asks again for records, held against this machine."""

    restated: Restated
    text: str
    """The suite's."""
    environment: Environment
    """That a run here would have."""
    every: tuple[Again, ...]
    conditions: tuple[ConditionHere, ...]
    plan: Plan | None
    """What the suite means here; None where it cannot be planned."""
    problems: tuple[str, ...]
    """Why it cannot be planned."""
    more: int = 0
    """Measurements of the records' cells that the suite asks for and the records do not have."""
    only: tuple[str, ...] = ()
    """The cells to select; none where they are all that the suite has."""

    @property
    def same_keys(self) -> int:
        """Records of which a run here leaves one under the same key."""
        return sum(one.same_key for one in self.every)

    @property
    def same_keys_there(self) -> int | None:
        """The same of a run under the records' own conditions; None where nothing is planned."""
        return None if self.plan is None else sum(not one.unlike for one in self.every)


def environment_of(record: Record) -> Environment:
    """The conditions that a record was taken under, with all that its key holds of them."""
    environment, identity = record.environment, record.identity
    given = {
        name: version
        for name, version in as_mapping(identity.get("versions")).items()
        if version is None or isinstance(version, str)
    }
    threads = identity.get("threads")
    return environment.model_copy(
        update={
            "threads": threads if type(threads) is int else environment.threads,
            "versions": {**environment.versions, **given},
        }
    )


def reproduce(
    restated: Restated, text: str, base: Path, *, device: str | None = None
) -> Reproduction:
    """Holds the suite of that text, whose paths start at `base`, against this machine.

    Raises `DeviceError` for a device that is not here.
    """
    chosen = find_device(device)
    here = detect_environment(chosen)
    variables = variables_set(here.device_type)
    here = here.model_copy(update={"threads": compute_threads(), "variables": variables})
    records = restated.records
    plan, problems = None, tuple[str, ...]()
    unlike: dict[str, dict[str, tuple[Any, Any]]] = {}
    only: tuple[str, ...] = ()
    try:
        suite = load_suite_text(text, "suite.yaml", base)
        suite = rehearse(suite) if restated.rehearsal else suite
        if {cell.slug for cell in suite.cells()} != set(restated.slugs):
            only = tuple(restated.slugs)
        unlike = _unlike(suite, records)
        plan = make_plan(suite, _NOWHERE, device=device, keep_unfit=True)
    except SuiteError as error:
        problems = tuple(map(str, error.problems))
    tasks = _tasks_here(plan)
    every = tuple(_again(record, tasks, unlike.get(record.key, {})) for record in records)
    twins = [_twin(one, here) for one in every]
    slugs = set(restated.slugs)
    asked = {_place(one.cell, one.item) for one in records}
    return Reproduction(
        restated,
        text,
        here,
        every,
        tuple(conditions_here([_as_planned(one) for one in records], twins)),
        plan,
        problems,
        sum(place[0] in slugs for place in tasks.keys() - asked),
        only,
    )


def _again(
    record: Record,
    tasks: dict[Place, tuple[Task, str | None]],
    unlike: dict[str, tuple[Any, Any]],
) -> Again:
    task, skip = tasks.get(_place(record.cell, record.item), (None, None))
    return Again(record, task, skip, unlike)


def _place(cell: Cell, item: Item) -> Place:
    return cell.slug, item.measurement, item.slug, item.repeat


def _tasks_here(plan: Plan | None) -> dict[Place, tuple[Task, str | None]]:
    if plan is None:
        return {}
    return {
        _place(cell.cell, task.item): (task, cell.skip or task.skip)
        for cell in plan.every
        for task in cell.tasks
    }


def _unlike(suite: Suite, records: Sequence[Record]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """What the suite says otherwise than each record, under the record's own conditions."""
    by_conditions: dict[str, list[Record]] = {}
    for record in records:
        by_conditions.setdefault(environment_of(record).model_dump_json(), []).append(record)
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for some in by_conditions.values():
        tasks = tasks_under(suite, _NOWHERE, environment_of(some[0]))
        laid_out = {_place(cell, task.item): task for cell, task in tasks}
        for record in some:
            task = laid_out.get(_place(record.cell, record.item))
            if task is None:
                found[record.key] = {"cell": (None, record.cell.slug)}
            elif task.key != record.key:
                found[record.key] = identity_changes(task.identity, record.identity)
    return found


def _as_planned(record: Record) -> Record:
    return record.model_copy(update={"environment": environment_of(record)})


def _twin(again: Again, here: Environment) -> Record:
    """The record as a run here would leave it, as far as its conditions go."""
    record = again.record
    versions = {name: version_in(name, here) for name in environment_of(record).versions}
    update: dict[str, Any] = {
        "environment": here.model_copy(update={"versions": {**here.versions, **versions}}),
        "protocol": PROTOCOL_VERSION,
        "identity": {} if again.task is None else again.task.identity,
    }
    return record.model_copy(update=update)
