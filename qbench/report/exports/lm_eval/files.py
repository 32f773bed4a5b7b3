"""The files of lm-eval: results of each cell that has tasks, and what is held of their items."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from qbench.compare.items import TASKS
from qbench.core.errors import UsageError
from qbench.report.exports.lm_eval.results import results_document
from qbench.report.exports.lm_eval.runs import task_runs
from qbench.report.exports.lm_eval.samples import samples_of
from qbench.report.exports.tree import (
    Exported,
    ExportedFile,
    as_json,
    part_of_path,
    told_once,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.report.exports.chosen import Chosen, ExportedCell
    from qbench.report.exports.lm_eval.runs import TaskRun

_UNDATED = "undated"


def lm_eval_files(chosen: Chosen, where: str) -> Exported:
    """`<cell>/results_<date>.json` for each call, and `samples_<task>_<date>.jsonl` beside it.

    `where` is what a person named. Raises `UsageError` where no cell has scores of tasks.
    """
    files: dict[PurePosixPath, str] = {}
    without: list[str] = []
    for one in chosen.cells:
        runs = task_runs(one)
        if not runs and not one.cell.is_training:
            without.append(one.cell.label)
        for run in runs:
            date = _date(run, files)
            folder = PurePosixPath(part_of_path(run.of.cell.slug))
            files[folder / f"results_{date}.json"] = as_json(results_document(run))
            for record in run.groups_first:
                for task, lines in samples_of(record).items():
                    path = folder / f"samples_{part_of_path(task)}_{date}.jsonl"
                    files[path] = "".join(as_json(line, indent=None) for line in lines)
    failed = told_once((reason for one in chosen.cells for reason in _failed(one)), "task")
    if not files and failed:
        raise UsageError(f"{where}: found no scores of tasks ({'; '.join(failed)}); run them again")
    if not files:
        raise UsageError(
            f"{where}: found no scores of tasks; expected cells with a measurement of"
            f" {' or '.join(TASKS)}: name it under `measure` and run again"
        )
    left_out = [f"left out: no scores of tasks: {', '.join(without)}"] if without else []
    return Exported(tuple(ExportedFile(*each) for each in files.items()), (*left_out, *failed))


def _date(run: TaskRun, files: dict[PurePosixPath, str]) -> str:
    """As lm-eval writes it, of UTC; calls of one moment are told apart by a number."""
    begun = run.begun
    date = _UNDATED if begun is None else begun.replace(tzinfo=None).isoformat("T", "microseconds")
    date, at = date.replace(":", "-"), 1
    named = date
    while PurePosixPath(part_of_path(run.of.cell.slug)) / f"results_{named}.json" in files:
        at += 1
        named = f"{date}-{at}"
    return named


def _failed(one: ExportedCell) -> Iterator[str]:
    for record in one.cell.records:
        if record.item.measurement in TASKS and record.status != "ok":
            yield f"{record.status} ({record.reason or 'no reason was recorded'})"
