"""Tables of `qbench plan` and `qbench list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qbench.environment import missing_packages
from qbench.estimate import Estimate
from qbench.finetune import methods
from qbench.measures import measures
from qbench.missing import lacking
from qbench.plan import RETRIED
from qbench.plan_needs import cache_free_bytes, cell_need, disk_needs, packed_bits
from qbench.precisions import precisions
from qbench.predict.bf16 import bf16_warning
from qbench.predict.devices import RESERVED_BYTES
from qbench.predict.peaks import training_tokens
from qbench.report.units import choose_scale, counted, format_seconds
from qbench.spec import slugify
from qbench.store import read_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from qbench.job import Job
    from qbench.plan import Plan
    from qbench.plan_layout import PlannedCell
    from qbench.plan_needs import CellNeed, DiskNeed
    from qbench.record import Environment
    from qbench.report.units import Scale
    from qbench.spec import Frozen


POWER_RESAMPLES = 1000
"""Enough for an estimate that is made at every `plan`; the gate itself takes more."""


def render_plan(plan: Plan, results: Path) -> RenderableType:
    """One row a cell: how much is on disk, predicted bytes and peak; then items, skips and needs.

    `results` is the folder that earlier records lie in.
    """
    records = {task.key: plan.records.record(task) for task in plan.tasks}
    one_model = len({cell.model.ref.name for cell in plan.cells}) == 1
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("cell", overflow="fold")
    # May wrap where it names statuses, but not within a count such as 12/28.
    table.add_column("on disk", justify="right", min_width=5)
    for heading in ("bytes", "bits/\nweight", "peak", "fits"):
        table.add_column(heading, justify="right", no_wrap=True)
    needs = [cell_need(cell, plan.environment) for cell in plan.cells]
    scale = choose_scale(
        [need.bytes for need in needs if need.bytes is not None], "bytes", decimals=2
    )
    incomplete = {record.key for record in lacking(plan, RETRIED)}
    for cell, need in zip(plan.cells, needs, strict=True):
        there = [found.status for task in cell.tasks if (found := records[task.key]) is not None]
        failed: list[str] = sorted({status for status in there if status != "ok"})
        failed += ["incomplete"] if any(task.key in incomplete for task in cell.tasks) else []
        name = cell.cell.label if one_model else cell.cell.slug
        table.add_row(
            name + (" (reference)" if cell.reference else ""),
            f"{len(there)}/{len(cell.tasks)}" + (f" ({', '.join(failed)})" if failed else ""),
            *_predicted(cell),
            *_peak(cell, need, scale),
        )
    done = sum(record is not None for record in records.values())
    missing = incomplete | {key for key, record in records.items() if record is None}
    jobs = plan.jobs(lambda task: task.key in missing)
    return Group(
        Text(_title(plan, one_model=one_model), style="italic"),
        table,
        *_notes(plan),
        *_need_notes(plan, needs),
        Text(
            f"{counted(len(plan.cells), 'cell')}, {counted(len(plan.tasks), 'measurement')},"
            f" {done} on disk; {counted(len(jobs), 'worker process')} to go"
        ),
        Text(f"time: {_time(plan, jobs, results)}"),
    )


def render_power(plan: Plan) -> RenderableType:
    """What each rule of the gate can find, judged by the records on disk."""
    from qbench.comparison.bootstrap import Sampling
    from qbench.comparison.gate_power import gate_power

    records = [record for task in plan.tasks if (record := plan.records.record(task)) is not None]
    if not records:
        return Text("what the gate's rules can find is shown once there are records")
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
        table.add_column(column, overflow="fold")
    return table


def _add_row(table: Table, entry: _Entry, reason: str | None) -> None:
    # An option's name that is cut off cannot be written.
    options = table.columns[2]
    longest = max(map(len, entry.options.model_fields), default=0)
    options.min_width = max(options.min_width or 0, longest + len(","))
    table.add_row(
        entry.name,
        entry.summary,
        _listed(entry.options.model_fields),
        _listed(entry.needs),
        Text(reason or "runs", style="red" if reason else "green"),
    )


def _title(plan: Plan, *, one_model: bool) -> str:
    model = f": {plan.cells[0].model.ref.name}" if one_model else ""
    memory = plan.environment.device_memory_bytes
    size = "" if memory is None else f" ({memory / 2**30:.1f} GiB)"
    rehearsal = "Rehearsal of " if plan.suite.rehearsal else ""
    return f"{rehearsal}{plan.suite.name}{model} on {plan.environment.device}{size}"


def _notes(plan: Plan) -> list[Text]:
    """What each cell is measured for, by model; then what cannot run, and why."""
    lines = [] if plan.device_note is None else [f"device: {plan.device_note}"]
    lines += [f"{cell.model.ref.name}: {_kind(cell)} {_measurements(cell)}" for cell in plan.cells]
    lines += [
        f"{cell.model.ref.name}: bytes are not known before loading, {cell.model.shape_unknown}"
        for cell in plan.cells
        if cell.predicted is None and cell.model.shape_unknown
    ]
    once = dict.fromkeys(lines)
    skips = _skips(plan)
    skips += dict.fromkeys(line for cell in plan.cells for line in _items_not_taken(cell))
    skips += _bf16_lines(plan)
    notes = [Text(f"rehearsal: {note}", style="yellow") for note in plan.suite.rehearsal]
    return [*notes, *map(Text, once), *(Text(line, style="yellow") for line in skips)]


def _bf16_lines(plan: Plan) -> list[str]:
    """Cells that compute in bf16 on a GPU that does not multiply it, by what to take instead."""
    found: dict[str, list[str]] = {}
    for cell in plan.cells:
        warning = None if cell.skip else bf16_warning(cell.cell, plan.environment)
        if warning is not None:
            found.setdefault(warning, []).append(cell.cell.label)
    return [f"{', '.join(dict.fromkeys(labels))}: {warning}" for warning, labels in found.items()]


def _skips(plan: Plan) -> list[str]:
    """Skipped cells with the reason; of a training that is, what is served of it only by name."""
    skipped = {
        (cell.model.ref.name, cell.cell.tuning.label): cell
        for cell in plan.cells
        if cell.skip and cell.cell.tuning is not None and cell.cell.deploy is None
    }
    lines = []
    for cell in plan.cells:
        tuning = cell.cell.tuning
        served = tuning is not None and cell.cell.deploy is not None
        if not cell.skip:
            continue
        if served and tuning is not None and (cell.model.ref.name, tuning.label) in skipped:
            lines.append(f"{cell.cell.slug}: skipped with its training")
        else:
            lines.append(f"{cell.cell.slug}: skipped: {cell.skip}")
    return lines


def _need_notes(plan: Plan, needs: Sequence[CellNeed]) -> list[Text]:
    """What the peaks are of, what does not fit, and what the disk needs."""
    lines = []
    if any(need.bytes is not None for need in needs):
        free = f"{RESERVED_BYTES / 2**20:.0f} MiB"
        text = f"peak: the highest predicted of a cell's measurements; {free} more are kept free"
        lines.append(Text(text, style="dim"))
        gpus = plan.environment.gpus_memory_bytes
        if len(gpus) > 1 and any(cell.cell.model.device_map is not None for cell in plan.cells):
            text = (
                f"peak with device_map: of {len(gpus)} GPUs together, which have"
                f" {sum(gpus) / 2**30:.1f} GiB; {free} more are kept free of each"
            )
            lines.append(Text(text, style="dim"))
    lengths = sorted(
        {
            training_tokens(cell.cell.tuning, cell.model)
            for cell, need in zip(plan.cells, needs, strict=True)
            if cell.cell.tuning is not None and cell.cell.deploy is None and need.bytes is not None
        }
    )
    if lengths:
        text = (
            "peak of a training: of the longest sequences that its options allow"
            f" ({' or '.join(map(str, lengths))} tokens); shorter data takes less"
        )
        lines.append(Text(text, style="dim"))
    packed = {
        cell.cell.precision.label: f"{bits:.2f}"
        for cell in plan.cells
        if (bits := packed_bits(cell)) is not None
    }
    if packed:
        listed = ", ".join(f"{label} {bits}" for label, bits in packed.items())
        text = f"bits/weight are of codes in bytes, as torchao keeps them; packed: {listed}"
        lines.append(Text(text, style="dim"))
    unknown: dict[str, list[str]] = {}
    for cell, need in zip(plan.cells, needs, strict=True):
        # What is skipped has its own reason, and no peak to ask for.
        if need.unknown is not None and cell.skip is None:
            unknown.setdefault(need.unknown, []).append(cell.cell.label)
    lines += [
        Text(f"peak not known: {', '.join(dict.fromkeys(labels))}: {reason}", style="dim")
        for reason, labels in unknown.items()
    ]
    found = disk_needs(plan)
    if found:
        lines.append(_disk_line(found))
    return lines


def _disk_line(needs: Sequence[DiskNeed]) -> Text:
    """What is fetched and kept, against what is free."""
    listed = ", ".join(f"{need.what} {_size(need.bytes)}" for need in needs)
    cached = sum(need.bytes for need in needs if need.is_cache)
    free = cache_free_bytes()
    if free is None or not cached:
        return Text(f"disk: {listed}")
    short = cached > free
    told = f"disk: {listed}; {_size(free)} are free for the cache"
    remedy = ": free space, or name another folder with QBENCH_CACHE" if short else ""
    return Text(told + remedy, style="yellow" if short else "")


def _peak(cell: PlannedCell, need: CellNeed, scale: Scale) -> tuple[str, Text]:
    """The highest peak of a cell, and whether it fits; `skip` for what is skipped all the same."""
    if need.bytes is None:
        return "–", Text("skip" if cell.skip else "–")
    word = "–" if need.fit is None else "yes" if need.fit.fits else "no"
    if cell.skip and word != "no":
        word = "skip"
    return scale.with_unit(need.bytes), Text(word, style="red" if word == "no" else "")


def _size(size: int) -> str:
    return choose_scale([size], "bytes").with_unit(size)


def _time(plan: Plan, jobs: Sequence[Job], results: Path) -> str:
    """How long what is missing will take, by the suite's earlier records on such a device."""
    tasks = [(job, task) for job in jobs for task in job.tasks]
    if not tasks:
        return "nothing is left to take"
    folder = results / slugify(plan.suite.name) / plan.environment.device_kind
    estimate = Estimate(read_folder(folder)[0] if folder.is_dir() else ())
    known = [seconds for pair in tasks if (seconds := estimate.seconds([pair])) is not None]
    if not known:
        return "not known: no earlier record says how long its measurements take here"
    told = f"about {format_seconds(sum(known))} by earlier records, loading apart"
    if len(known) == len(tasks):
        return told
    return f"{told}, for {len(known)} of {counted(len(tasks), 'measurement')}; the others are new"


def _items_not_taken(cell: PlannedCell) -> list[str]:
    """Measurements of a cell that runs which are skipped, those with the same reason together."""
    alike: dict[str, dict[str, None]] = {}
    for task in cell.tasks:
        if task.skip is not None and cell.skip is None:
            alike.setdefault(task.skip, {})[task.item.measurement] = None
    return [
        f"{cell.model.ref.name}: {_kind(cell)} skips {', '.join(names)}: {reason}"
        for reason, names in alike.items()
    ]


def _kind(cell: PlannedCell) -> str:
    """Which of the cells are asked for the same."""
    if cell.cell.tuning is None:
        return "each cell"
    if cell.cell.deploy is None:
        return "each training"
    return f"each model tuned by {cell.cell.tuning.method}, {cell.cell.deploy}:"


def _measurements(cell: PlannedCell) -> str:
    counts: dict[str, int] = {}
    for task in cell.tasks:
        counts[task.item.measurement] = counts.get(task.item.measurement, 0) + 1
    return ", ".join(name if n == 1 else f"{name} × {n}" for name, n in counts.items())


def _predicted(cell: PlannedCell) -> tuple[str, str]:
    """Static bytes, and bits per weight."""
    if cell.cell.tuning is not None and cell.cell.deploy is None:
        return "training", "–"
    if cell.predicted is None or cell.model.shape is None:
        return "not known", "–"
    total = cell.predicted.total
    return (
        f"{total:,}",
        f"{8 * total / cell.model.shape.weights:.2f}",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"
