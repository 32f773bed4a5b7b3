"""The files of all cells that may be told of in the common store, and why others may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.report.exports.every_eval_ever.identity import UNSTATED, model_id
from qbench.report.exports.every_eval_ever.log import files_of
from qbench.report.exports.every_eval_ever.results import results_of
from qbench.report.exports.tree import Exported, told_once

if TYPE_CHECKING:
    from qbench.report.exports.chosen import Chosen, ExportedCell
    from qbench.report.exports.every_eval_ever.identity import Evaluator
    from qbench.report.exports.tree import ExportedFile

_RANDOM = "its weights are random: its figures are those of no model"
_NO_DEVELOPER = "nothing says who made the model; say it with --developer NAME"
_TRAINING = "it is the training itself: its served models are told of"


def every_eval_ever_files(chosen: Chosen, where: str, evaluator: Evaluator) -> Exported:
    """A log for each cell. Raises `UsageError` where there is none that may be told of.

    `where` is what a person named.
    """
    files: list[ExportedFile] = []
    cells: list[str] = []
    metrics: list[str] = []
    for one in chosen.cells:
        named = model_id(one.cell.records[0].cell, evaluator)
        barred = _barred(one)
        if barred is not None or named is None:
            cells.append(barred or _NO_DEVELOPER)
            continue
        results, left_out = results_of(one)
        metrics += left_out
        if results:
            files += files_of(one, results, named, evaluator)
        else:
            cells.append("it has no metric with a value and a direction")
    notes = [*told_once(cells, "cell"), *told_once(metrics, "figure")]
    if not files:
        raise UsageError(f"{where}: found nothing to export ({'; '.join(notes)})")
    return Exported(tuple(files), (*notes, *_unstated(evaluator)))


def _barred(one: ExportedCell) -> str | None:
    """Why a cell is not told of, whoever made its model; None where it may be."""
    cell = one.cell.records[0].cell
    if cell.model.kind == "random":
        return _RANDOM
    return _TRAINING if cell.is_training else None


def _unstated(evaluator: Evaluator) -> list[str]:
    if evaluator.organization != UNSTATED:
        return []
    return [f"who measured: the files say {UNSTATED!r}; say it with --organization NAME"]
