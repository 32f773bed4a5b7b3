"""Tables of `qbench plan` and `qbench list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qbench.finetune import methods
from qbench.measures import measures
from qbench.plan import record_on_disk
from qbench.precisions import precisions
from qbench.precisions.int8 import missing_packages
from qbench.report.units import choose_scale, counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from qbench.plan import Plan
    from qbench.plan_layout import PlannedCell
    from qbench.record import Environment
    from qbench.spec import Frozen


POWER_RESAMPLES = 1000
"""Enough for an estimate that is made at every `plan`; the gate itself takes more."""


def render_plan(plan: Plan) -> RenderableType:
    """One row a cell: how much is on disk, predicted bytes, why it is skipped; then the items."""
    table = Table(
        title=f"{plan.suite.name} on {plan.environment.device}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("cell", no_wrap=True)
    table.add_column("on disk", justify="right")
    table.add_column("static", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("bits/weight", justify="right")
    done = 0
    for cell in plan.cells:
        there = [record.status for record in map(record_on_disk, cell.tasks) if record is not None]
        done += len(there)
        failed = sorted({status for status in there if status != "ok"})
        table.add_row(
            cell.cell.slug + (" (reference)" if cell.reference else ""),
            f"{len(there)}/{len(cell.tasks)}" + (f" ({', '.join(failed)})" if failed else ""),
            *_predicted(cell),
        )
    missing = {task.key for task in plan.tasks if record_on_disk(task) is None}
    jobs = plan.jobs(lambda task: task.key in missing)
    return Group(
        table,
        *_notes(plan),
        Text(
            f"{counted(len(plan.cells), 'cell')}, {counted(len(plan.tasks), 'measurement')},"
            f" {done} on disk; {counted(len(jobs), 'worker process')} to go"
        ),
    )


def render_power(plan: Plan) -> RenderableType:
    """What each rule of the gate can find, judged by the records on disk."""
    from qbench.comparison.differences import Sampling
    from qbench.comparison.gate_power import gate_power

    records = [record for task in plan.tasks if (record := record_on_disk(task)) is not None]
    if not records:
        return Text("what the gate's rules can find is told once there are records")
    found = gate_power(plan.suite.gate, records, sampling=Sampling(resamples=POWER_RESAMPLES))
    if not found:
        return Text("no rule of the gate applies to the records on disk")
    return Group(Text("What the gate's rules can find:"), *(Text(f"  {one}") for one in found))


def render_tables(environment: Environment) -> RenderableType:
    """Precisions, methods and measurements: options, needs, and whether they can run."""
    device = environment.device
    held = _listing("Precisions", "what it is", device)
    for precision in precisions().values():
        _add_row(held, precision, precision.unavailable(environment))
    tuned = _listing("Fine-tuning methods", "what it trains", device)
    for method in methods().values():
        _add_row(tuned, method, missing_packages(method.needs, environment))
    taken = _listing("Measurements", "what it finds", device)
    for measurement in measures().values():
        _add_row(taken, measurement, missing_packages(measurement.needs, environment))
    return Group(held, tuned, taken)


class _Entry(Protocol):
    """A precision, a method or a measurement, as far as it is listed."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def options(self) -> type[Frozen]: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


def _listing(title: str, about: str, device: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("name", about, "options", "needs", f"on {device}"):
        table.add_column(column)
    return table


def _add_row(table: Table, entry: _Entry, reason: str | None) -> None:
    table.add_row(
        entry.name,
        entry.summary,
        _listed(entry.options.model_fields),
        _listed(entry.needs),
        Text(reason or "runs", style="red" if reason else "green"),
    )


def _notes(plan: Plan) -> list[Text]:
    """What each cell is measured for, by model; then what cannot run, and why."""
    lines = [f"{cell.model.ref.name}: {_kind(cell)} {_measurements(cell)}" for cell in plan.cells]
    lines += [
        f"{cell.model.ref.name}: bytes are not known before loading, {cell.model.shape_unknown}"
        for cell in plan.cells
        if cell.predicted is None and cell.model.shape_unknown
    ]
    skips = [f"{cell.cell.slug}: skipped: {cell.skip}" for cell in plan.cells if cell.skip]
    once = dict.fromkeys(lines)
    return [*map(Text, once), *(Text(line, style="yellow") for line in skips)]


def _kind(cell: PlannedCell) -> str:
    """Which of the cells are asked for the same."""
    if cell.cell.tuning is None:
        return "each cell"
    if cell.cell.deploy is None:
        return "each training"
    return f"each tuned model, {cell.cell.deploy}:"


def _measurements(cell: PlannedCell) -> str:
    counts: dict[str, int] = {}
    for task in cell.tasks:
        counts[task.item.measurement] = counts.get(task.item.measurement, 0) + 1
    return ", ".join(name if n == 1 else f"{name} × {n}" for name, n in counts.items())


def _predicted(cell: PlannedCell) -> tuple[str, str, str]:
    """Static bytes in a readable unit, to the byte, and bits per weight."""
    if cell.cell.tuning is not None and cell.cell.deploy is None:
        return "training", "–", "–"
    if cell.predicted is None or cell.model.shape is None:
        return "not known", "–", "–"
    total = cell.predicted.total
    return (
        choose_scale([total], "bytes").with_unit(total),
        f"{total:,}",
        f"{8 * total / cell.model.shape.weights:.2f}",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"
