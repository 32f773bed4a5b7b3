"""What a cell's model keeps before it computes anything, by arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.finetune.adapter_bytes import adapter_static_bytes
from qbench.precisions import precisions, stored

if TYPE_CHECKING:
    from qbench.spec import Cell, ResolvedModel, StaticBytes


def predicted_bytes(cell: Cell, model: ResolvedModel) -> StaticBytes | None:
    """Static bytes by arithmetic; None for a training, or where the shapes are not known."""
    if model.shape is None or (cell.precision.name == stored.NAME) != bool(model.quantization):
        return None
    base = precisions()[cell.precision.name].storage(model.shape, cell.precision.options)
    if cell.tuning is None:
        return base
    if cell.deploy is None:
        return None
    adapters = adapter_static_bytes(
        model.shape, model.architecture, cell.tuning, cell.deploy, cell.precision
    )
    return None if adapters is None else base.model_copy(update={"adapters": adapters})
