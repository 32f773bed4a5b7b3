"""The sum of what single units cost against what all of them cost together, on the same windows.

The sum is made of the reference's table, for the format that each unit of a cell is held in; the
other is the cell's own divergence, paired with it by windows. What they differ by is what the units
do to each other, where it is more than rounding, which a sum of many figures has many times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

from qbench.compare.comparable import find_gap
from qbench.compare.differences import Difference, change_of, level, level_of
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import Allowance, direction, mark_all
from qbench.compare.sensitivities import SENSITIVITY
from qbench.compare.series import find_series
from qbench.core.number_types import FloatType
from qbench.core.unchecked import as_mapping, as_number
from qbench.precisions import options_of
from qbench.precisions.computing import rest_type
from qbench.precisions.mixed import sought
from qbench.precisions.mixed.layers import member_of
from qbench.precisions.mixed.members import format_of
from qbench.precisions.mixed.options import MixedOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.sensitivities import Damages
    from qbench.compare.series import Series
    from qbench.core.record import Record
    from qbench.core.spec import PrecisionRef
    from qbench.precisions.mixed.sensitivities import Unit

KL, ROUNDING = "sensitivity.kl.mean", "sensitivity.kl.rounding"
Kind = Literal["more", "less", "rounding", "undecided", "unknown"]
_SAME_SUM = 1e-6


class _NoSumError(Exception):
    """Why the units' own costs cannot be summed for a cell."""


@dataclass(frozen=True)
class Together:
    """One cell: what the sum says, and what was measured."""

    cell: CellRecords
    total: Difference | None = None
    """The sum; None where there is none."""
    joint: Difference | None = None
    """What all cost together; None where it was not measured."""
    more: Difference | None = None
    """Measured less the sum, paired by windows."""
    ratio: Difference | None = None
    """Measured by the sum, less 1; None of a sum that is not above 0."""
    rounding: float | None = None
    """Nats that rounding may add to the sum, at most; None where it is not known."""
    kind: Kind = "unknown"
    """Whether together they cost `more` or `less` than the sum; `rounding`: they differ by no more
    than that may add."""
    reason: str | None = None
    """Why there is no sum, or nothing is said of it."""

    @property
    def is_mix(self) -> bool:
        """Whether its layers are held in several formats."""
        return is_mix(self.cell)


def is_mix(cell: CellRecords) -> bool:
    """Whether a cell's layers are held in several formats."""
    return sought.is_mix(cell.records[0].cell.precision)


def interactions(records: TableRecords, slug: str, damages: Damages) -> list[Together]:
    """Each cell but the reference that was measured on the windows of the table.

    One whose measurement failed is told of where failures are.
    """
    found = [
        _together(cell, records, slug, damages)
        for cell in records.cells
        if not cell.reference and any(one.status == "ok" for one in cell.of(SENSITIVITY, slug))
    ]
    judged = [(one, one.more) for one in found if one.more is not None]
    margin = Allowance(0.0, relative=False)
    marks = mark_all([(more, margin) for _, more in judged], alpha=Sampling().alpha)
    kinds = {
        one.cell.slug: _kind(one, direction(more, mark, "lower"))
        for (one, more), mark in zip(judged, marks, strict=True)
        if more.estimate is not None
    }
    return [replace(one, kind=kinds.get(one.cell.slug, one.kind)) for one in found]


def formats_of_units(cell: CellRecords, damages: Damages) -> dict[str, str] | str:
    """By unit the table's label of what the cell holds it in; or why that is not known."""
    try:
        return _found_mix(cell, damages) or _by_options(cell, damages)
    except _NoSumError as error:
        return str(error)


def _together(cell: CellRecords, records: TableRecords, slug: str, damages: Damages) -> Together:
    own = cell.of(SENSITIVITY, slug)
    base = records.reference.of(SENSITIVITY, slug) if records.reference else []
    gap = find_gap(own, base, KL, same_run=True)
    joint = None if gap is not None else level(own, KL, sampling=Sampling())
    chosen = formats_of_units(cell, damages)
    if isinstance(chosen, str):
        return Together(cell, joint=joint, reason=chosen)
    total, series = damages.total(chosen), damages.series(chosen)
    if total is None:
        return Together(cell, joint=joint, reason="not each of its units was measured alone")
    summed = Difference(total, None, relative=False, estimate=None, method="none")
    if series is not None:
        summed = level_of(series, total, Sampling())
    known = Together(cell, joint=joint, total=summed)
    if joint is None:
        return replace(known, reason=gap.reason if gap else "not measured")
    measured = _series_of(own)
    if series is None or measured is None or joint.new is None:
        return replace(known, reason="what is summed is not kept by window")
    more, ratio = (
        change_of(measured, series, (joint.new, total), relative=relative, sampling=Sampling())
        for relative in (False, True)
    )
    if more.estimate is None:
        return replace(known, more=more, reason=more.reason)
    values = (as_number(one.value(ROUNDING)) for one in own)
    each = next((value for value in values if value is not None and math.isfinite(value)), None)
    count = sum(label != damages.table.rest for label in chosen.values())
    rounding = None if each is None else each * count
    # Of a sum of nothing there is none: all may be in the reference's own type.
    by_sum = ratio if total > 0 else None
    return replace(known, more=more, ratio=by_sum, rounding=rounding, kind="undecided")


def _kind(one: Together, way: str | None) -> Kind:
    """Of a difference that is told from 0 by chance alone, whether rounding may be all of it."""
    if way is None or one.more is None or one.more.plain is None:
        return "undecided"
    if one.rounding is not None and one.more.plain < 0 and -one.more.plain <= one.rounding:
        return "rounding"
    return "more" if one.more.plain > 0 else "less"


def _series_of(found: Sequence[Record]) -> Series | None:
    for record in found:
        value = record.value(KL)
        if record.status == "ok" and value is not None:
            return find_series(record, KL, value)
    return None


def _found_mix(cell: CellRecords, damages: Damages) -> dict[str, str] | None:
    """What was found for a budget; None of a cell that is not found."""
    mix = next(
        (
            told
            for one in cell.records
            if (told := as_mapping(as_mapping(one.details.get("loaded")).get("mix")))
        ),
        {},
    )
    chosen = {str(unit): str(label) for unit, label in as_mapping(mix.get("units")).items()}
    if not chosen:
        return None
    known = {*damages.formats, damages.table.rest}
    if set(chosen) != set(damages.units) or not known >= set(chosen.values()):
        raise _NoSumError("it was found from a table of other layers or formats")
    predicted, total = as_number(mix.get("predicted_kl")), damages.total(chosen)
    if predicted is None or total is None:
        return chosen
    if not math.isclose(predicted, total, rel_tol=_SAME_SUM, abs_tol=1e-12):
        raise _NoSumError("it was found from another measurement of the sensitivities")
    return chosen


def _by_options(cell: CellRecords, damages: Damages) -> dict[str, str]:
    """What the precision says: one format for all layers, or a map of them by hand."""
    ref, rest = cell.records[0].cell.precision, damages.table.rest
    try:
        options = options_of(ref)
        if rest not in get_args(FloatType) or rest_type(ref) != rest:
            raise _NoSumError(f"what it does not quantize is not in {rest}, as in the table")
        if not isinstance(options, MixedOptions):
            return dict.fromkeys(damages.units, _whole(ref, damages))
        if options.budget is not None:
            raise _NoSumError("its record does not say what it was found to hold")
        return {unit.name: _of_unit(unit, options, damages) for unit in damages.table.units}
    except (KeyError, ValueError):  # a record may name what is no longer there
        raise _NoSumError("no single layer was held in it") from None


def _whole(ref: PrecisionRef, damages: Damages) -> str:
    """The table's label of a format that holds all layers alike."""
    made = format_of(ref.label, cast("FloatType", damages.table.rest), {ref.label: ref})
    own = options_of(ref).model_dump(mode="json")
    # A type that follows the rest is not given; all else must be as the single layers have it.
    alike = all(own.get(name) in (None, value) for name, value in made.options.items())
    label = _known(made, damages)
    if label is None:
        raise _NoSumError("no single layer was held in it")
    if not alike:
        raise _NoSumError("as a whole it holds more than its layers in the one format")
    return label


def _of_unit(unit: Unit, options: MixedOptions, damages: Damages) -> str:
    """The table's label of what a mix by hand holds a unit in."""
    held = list(dict.fromkeys(member_of(layer, options) for layer in unit.layers))
    if len(held) > 1:
        raise _NoSumError(f"it holds the layers of {unit.name} in several formats")
    if held[0].label == damages.table.rest:
        return damages.table.rest
    label = _known(held[0], damages)
    if label is None:
        raise _NoSumError(f"no single layer was held in {held[0].label}")
    return label


def _known(ref: PrecisionRef, damages: Damages) -> str | None:
    """The label of the table's format that is the same, whatever it is called."""
    wanted = ref.name, options_of(ref)
    formats = damages.table.formats
    return next(
        (
            label
            for label, one in formats.items()
            if one.name == ref.name and (one.name, options_of(one)) == wanted
        ),
        None,
    )
