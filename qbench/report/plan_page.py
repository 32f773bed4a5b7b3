"""A plan as a page: its cells with what is on disk and what they need, and what is skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.compare.newest import read_newest
from qbench.core.page import Bullets, Column, Figure, Heading, Page, Row, Table, Words, bullets
from qbench.core.page_data import rows_data
from qbench.core.spec import slugify
from qbench.core.units import counted, format_seconds
from qbench.plan.estimate import Estimate
from qbench.plan.missing import jobs_to_run, lacking
from qbench.plan.needs import (
    cache_free_bytes,
    cell_need,
    disk_needs,
    loading_bytes,
    saved_bytes,
)
from qbench.plan.plan import RETRIED
from qbench.predict.bits import bits_per_weight, weights_of
from qbench.predict.static import saved_in_experts
from qbench.report.cell_row import called_in_words
from qbench.report.plan_kinds import kinds_data, kinds_parts
from qbench.report.plan_notes import need_notes, plan_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from qbench.compare.gate.power import Power
    from qbench.core.page import Part
    from qbench.core.record import Environment, Record
    from qbench.plan.cells import PlannedCell
    from qbench.plan.job import Job
    from qbench.plan.needs import CellNeed
    from qbench.plan.plan import Plan

POWER_RESAMPLES = 1000
"""Enough for an estimate that is made at every `plan`; the gate itself takes more."""
_NONE = Figure(word="–", tone="quiet")
_COLUMNS = (
    Column("on_disk", "on disk", "text", right=True),
    Column("bytes", "bytes", "exact", definition="static, by arithmetic, as it is served"),
    Column("bytes_held", "held here", "exact", definition="static, codes in bytes"),
    Column("bits_per_weight", "bits/weight", "number", decimals=2),
    Column("bits_per_weight_linear", "linear bits/weight", "number", decimals=2),
    Column("peak_bytes", "peak", "bytes", decimals=2),
    Column("fits", "fits", "mark", right=True),
)


@dataclass(frozen=True)
class _Left:
    """What of a plan is still to take, and how long that takes by earlier records."""

    jobs: int
    seconds: float | None
    """None where no record says how long any of it takes."""
    known: int
    """Measurements whose time is known."""
    measurements: int

    @property
    def words(self) -> str:
        if not self.measurements:
            return "nothing is left to take"
        if self.seconds is None:
            return "not known: no earlier record says how long its measurements take here"
        told = f"about {format_seconds(self.seconds)} by earlier records, loading apart"
        if self.known == self.measurements:
            return told
        all_of_them = counted(self.measurements, "measurement")
        return f"{told}, for {self.known} of {all_of_them}; the others are new"


def plan_page(plan: Plan, results: Path, *, kinds: bool = False) -> Page:
    """One row a cell: how much is on disk, predicted bytes and peak; then items, skips and needs.

    `results` is the folder that earlier records lie in; `kinds` adds what bytes and peaks are made
    of.
    """
    records = {task.key: plan.records.record(task) for task in plan.tasks}
    incomplete = {record.key for record in lacking(plan, RETRIED)}
    needs = [cell_need(cell, plan.environment) for cell in plan.cells]
    disk, free = disk_needs(plan), cache_free_bytes()
    models = {cell.model.ref.name for cell in plan.cells}
    only_model = models.pop() if len(models) == 1 else None
    table = _table(plan, needs, records, incomplete, several_models=only_model is None)
    done = sum(record is not None for record in records.values())
    left = _left(plan, jobs_to_run(plan, RETRIED, fresh=False), results)
    power = _power(plan, records.values())
    count = (
        f"{counted(len(plan.cells), 'cell')}, {counted(len(plan.tasks), 'measurement')},"
        f" {done} on disk; {counted(left.jobs, 'worker process')} to go"
    )
    parts: list[Part] = [
        table,
        Bullets(
            (
                *plan_notes(plan),
                *need_notes(plan, needs, disk, free),
                Words(count),
                Words(f"time: {left.words}"),
            )
        ),
        *(kinds_parts(plan, needs) if kinds else ()),
        *_power_parts(power, any_records=done > 0),
    ]
    data = {
        "suite": plan.suite.name,
        "rehearsal": list(plan.suite.rehearsal),
        "shard": None if plan.shard is None else plan.shard.data,
        "device": {
            "name": plan.environment.device,
            "type": plan.environment.device_type,
            "memory_bytes": plan.environment.device_memory_bytes,
            "note": plan.device_note,
        },
        "cells": [
            {**row, **_cell_data(cell, need, records), **_held_data(cell, plan.environment)}
            for row, cell, need in zip(rows_data(table), plan.cells, needs, strict=True)
        ],
        "measurements": len(plan.tasks),
        "on_disk": done,
        "jobs_to_go": left.jobs,
        "seconds_to_go": left.seconds,
        "disk": [{"what": one.what, "bytes": one.bytes} for one in disk],
        "cache_free_bytes": free,
        "gate": None if power is None else [_power_data(one) for one in power],
    }
    return Page(_title(plan, only_model), tuple(parts), data)


def _table(
    plan: Plan,
    needs: Sequence[CellNeed],
    records: dict[str, Record | None],
    incomplete: set[str],
    *,
    several_models: bool,
) -> Table:
    rows = []
    for cell, need in zip(plan.cells, needs, strict=True):
        there = [found.status for task in cell.tasks if (found := records[task.key]) is not None]
        failed: list[str] = sorted({status for status in there if status != "ok"})
        failed += ["incomplete"] if any(task.key in incomplete for task in cell.tasks) else []
        told = f"{len(there)}/{len(cell.tasks)}" + (f" ({', '.join(failed)})" if failed else "")
        figures = (Figure(word=told), *_predicted(cell), *_peak(cell, need))
        name = cell.cell.slug if several_models else cell.cell.label
        called = None if several_models else called_in_words(cell.cell)
        rows.append(Row(name, cell.reference, figures, called=called))
    table = Table("Cells", "cell", _COLUMNS, tuple(rows))
    if any(saved_bytes(cell) for cell in plan.cells):
        return table
    return table.with_columns(
        [index for index, column in enumerate(_COLUMNS) if column.key != "bytes_held"]
    )


def _predicted(cell: PlannedCell) -> tuple[Figure, ...]:
    """Static bytes, those held here where they are others, and bits per weight of whole and linear.

    Bytes and bits are those of the format as it is served.
    """
    if cell.cell.is_training:
        return Figure(word="training", tone="quiet"), _NONE, _NONE, _NONE
    if cell.predicted is None or cell.model.shape is None:
        return Figure(word="not known", tone="quiet"), _NONE, _NONE, _NONE
    saved = saved_bytes(cell)
    bits = bits_per_weight(
        cell.predicted,
        weights_of(cell.model.shape),
        saved=saved,
        saved_in_experts=saved_in_experts(cell.model.shape),
    )
    told = (_NONE if value is None else Figure(value) for value in (bits["model"], bits["linear"]))
    held = Figure(cell.predicted.total) if saved else _NONE
    return Figure(round(cell.predicted.total - saved)), held, *told


def _table_bits(cell: PlannedCell) -> float | None:
    """Bits per weight of embeddings and head; None where they are not known."""
    if cell.predicted is None or cell.model.shape is None:
        return None
    return bits_per_weight(cell.predicted, weights_of(cell.model.shape))["embeddings_and_head"]


def _peak(cell: PlannedCell, need: CellNeed) -> tuple[Figure, Figure]:
    """The highest peak of a cell, and whether it fits; `skip` for what is skipped all the same."""
    if need.bytes is None:
        return _NONE, Figure(word="skip") if cell.skip else _NONE
    word = "–" if need.fit is None else "yes" if need.fit.fits else "no"
    if cell.skip and word != "no":
        word = "skip"
    return Figure(need.bytes), Figure(word=word, tone="bad" if word == "no" else "plain")


def _cell_data(
    cell: PlannedCell, need: CellNeed, records: dict[str, Record | None]
) -> dict[str, Any]:
    """What the table says in words, in numbers."""
    statuses: dict[str, int] = {}
    for task in cell.tasks:
        record = records[task.key]
        name = "missing" if record is None else record.status
        statuses[name] = statuses.get(name, 0) + 1
    return {
        "slug": cell.cell.slug,
        "bits_per_weight_embeddings_and_head": _table_bits(cell),
        "model": cell.model.ref.name,
        "reference": cell.reference,
        "on_disk": len(cell.tasks) - statuses.get("missing", 0),
        "measurements": len(cell.tasks),
        "statuses": statuses,
        "fits": None if need.fit is None else need.fit.fits,
        "skip": cell.skip,
        "skipped_items": {
            f"{task.item.measurement} {task.item.slug}": task.skip
            for task in cell.tasks
            if task.skip is not None
        },
        "peak_unknown": need.unknown,
        **kinds_data(cell, need),
    }


def _held_data(cell: PlannedCell, environment: Environment) -> dict[str, Any]:
    """Bytes that are others than those of the format as it is served, and its mix; else None."""
    held = cell.predicted.total if cell.predicted is not None and saved_bytes(cell) else None
    return {
        "bytes_held": held,
        "bytes_loading": loading_bytes(cell, environment),
        "mix": None if cell.found is None else cell.found[1].model_dump(mode="json"),
    }


def _title(plan: Plan, only_model: str | None) -> str:
    model = f": {only_model}" if only_model is not None else ""
    memory = plan.environment.device_memory_bytes
    size = "" if memory is None else f" ({memory / 2**30:.1f} GiB)"
    rehearsal = "Rehearsal of " if plan.suite.rehearsal else ""
    return f"{rehearsal}{plan.suite.name}{model} on {plan.environment.device}{size}"


def _left(plan: Plan, jobs: Sequence[Job], results: Path) -> _Left:
    """How long what is missing will take, by the suite's earlier records on such a device.

    Of many records by the newest: of each thing the last that was taken without fault.
    """
    tasks = [(job, task) for job in jobs for task in job.tasks]
    if not tasks:
        return _Left(0, 0.0, 0, 0)
    folder = results / slugify(plan.suite.name) / plan.environment.device_kind
    estimate = Estimate(read_newest(folder)[0] if folder.is_dir() else ())
    known = [seconds for pair in tasks if (seconds := estimate.seconds([pair])) is not None]
    return _Left(len(jobs), sum(known) if known else None, len(known), len(tasks))


def _power(plan: Plan, records: Iterable[Record | None]) -> list[Power] | None:
    """What each rule of the gate can find, judged by the records on disk; None without a gate."""
    if not plan.suite.gate:
        return None
    there = [record for record in records if record is not None]
    if not there:
        return []
    from qbench.compare.estimates.bootstrap import Sampling
    from qbench.compare.gate.power import gate_power

    return gate_power(plan.suite.gate, there, sampling=Sampling(resamples=POWER_RESAMPLES))


def _power_parts(found: Sequence[Power] | None, *, any_records: bool) -> list[Part]:
    if found is None:
        return []
    if not any_records:
        return [Words("what the gate's rules can find is shown once there are records")]
    if not found:
        return [Words("no rule of the gate applies to the records on disk")]
    return [Heading("What the gate's rules can find"), bullets(map(str, found))]


def _power_data(one: Power) -> dict[str, Any]:
    return {
        "rule": one.rule.metric,
        "cell": one.cell.label,
        "item": one.item.slug,
        "metric": one.metric,
        "detectable": one.detectable,
        "relative": one.relative,
        "unit": one.unit,
        "units": one.units,
        "units_needed": one.needed,
        "reason": one.reason,
    }
