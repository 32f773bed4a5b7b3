"""Checkpoints that are quantized already, and those that are not: which cells go with which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions import precisions

if TYPE_CHECKING:
    from qbench.core.spec import Cell, ResolvedModel


def checkpoint_misfit(cell: Cell, model: ResolvedModel) -> str | None:
    """Why this checkpoint and the precisions of a cell do not go together; None if they do."""
    if model.stale_quantization:
        return (
            f"config.json says that the checkpoint is quantized ({model.quantization}), and none of"
            " its weights is; remove quantization_config from config.json to measure them in any"
            " precision, or give the checkpoint that it belongs to"
        )
    method, table = model.quantization, precisions()
    as_stored = {name: one for name, one in table.items() if one.takes_quantized}
    if method is None:
        tuned_in = None if cell.tuning is None else cell.tuning.precision.name
        wrong = next((name for name in as_stored if name in (cell.precision.name, tuned_in)), None)
        if wrong is None:
            return None
        other = as_stored[wrong].stand_in
        return (
            f"the checkpoint is not quantized, and `{wrong}` takes one that is; choose another"
            f" precision{f', such as {other}, which quantizes it on loading' if other else ''}"
        )
    if cell.tuning is not None:
        return (
            f"the checkpoint is already quantized ({method}), and qbench tunes original models;"
            " give the one that it was made from, and its precision to the method"
        )
    if cell.precision.name not in as_stored:
        return (
            f"the checkpoint is already quantized ({method}), so it cannot be held in another"
            f" precision; add `{next(iter(as_stored))}` to the precisions, or give the original"
            " model"
        )
    return None
