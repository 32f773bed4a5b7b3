"""What of a cell's precision the device decides, such as the kernel that multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions import options_of, precisions
from qbench.predict.bf16 import has_bf16

if TYPE_CHECKING:
    from qbench.core.record import Environment
    from qbench.core.spec import Cell

_HELD_ANEW = ("merged",)
"""Deployments of which the model is loaded like any other: nothing is attached to it."""


def on_device(cell: Cell, environment: Environment) -> Cell:
    """The cell with the options of its precision that the suite leaves to the device.

    They stand in the record and its key. What is trained, and what an adapter is attached to, stays
    as it is written: gradients and adapters know the simulated form.
    """
    if cell.tuning is not None and cell.deploy not in _HELD_ANEW:
        return cell
    precision = cell.precision
    changed = precisions()[precision.name].for_device(
        options_of(precision), environment.device_type, bf16=has_bf16(environment)
    )
    if not changed:
        return cell
    options = {**precision.options, **changed}
    return cell.model_copy(update={"precision": precision.model_copy(update={"options": options})})
