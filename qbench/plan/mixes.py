"""Mixes that a suite states a budget of: what is known of them before they are built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError
from qbench.precisions.mixed.sensitivities import has_sensitivities, read_sensitivities
from qbench.predict.found_mix import find_mix

if TYPE_CHECKING:
    from qbench.core.spec import Cell, ResolvedModel
    from qbench.predict.found_mix import FoundMix


def known_mix(cell: Cell, model: ResolvedModel, key: str | None) -> tuple[Cell, FoundMix] | None:
    """The cell with its mix in place of a budget, and what it is to cost.

    None where no mix is sought, or the table of that key is not in the cache; where none can be
    found from it, the cell's record will say why.
    """
    if key is None or model.shape is None or not has_sensitivities(key):
        return None
    try:
        precision, found = find_mix(cell.precision, model.shape, read_sensitivities(key))
    except MeasurementError:
        return None
    return cell.model_copy(update={"precision": precision}), found
