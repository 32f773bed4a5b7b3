"""A mix that a budget is stated of: which format each unit gets, found from measured damages.

Bytes are those of the arithmetic from shapes, which are to the byte what is loaded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError
from qbench.core.spec import Frozen
from qbench.precisions import options_of, precisions
from qbench.precisions.floating import in_type
from qbench.precisions.mixed.layers import formats_of
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.mixed.search import Choice, OverBudgetError, best_choices
from qbench.precisions.mixed.sought import Sizes, allowed_bytes, why_too_small
from qbench.predict.bits import bits_per_weight, weights_of
from qbench.predict.static import as_loaded, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import ModelShape, PrecisionRef
    from qbench.precisions.mixed.options import By
    from qbench.precisions.mixed.sensitivities import Cost, Sensitivities


class FoundMix(Frozen):
    """What was found for a budget, and what it is to cost."""

    budget: str
    """As the suite states it: `4.5 bits`, `5 GiB`."""
    by: str
    """What was summed: `kl` or `output_error`."""
    units: dict[str, str]
    """By unit, the label of its format; the type of the rest for a unit that stays in it."""
    predicted_kl: float | None
    """Sum of what each unit costs alone in its format, in nats a token."""
    unknown: str | None = None
    """Why there is no such sum; None where there is."""
    interval: tuple[float, float] | None = None
    """Of the sum, of 90 %; None where it is not known."""
    static_bytes: int
    """Of the model, by arithmetic."""
    bits_per_weight: float | None
    """Of the linear layers, by arithmetic; None of a model that has none."""


def find_mix(
    precision: PrecisionRef, shape: ModelShape, table: Sensitivities
) -> tuple[PrecisionRef, FoundMix]:
    """The precision with a map of layers in place of its budget, and what was found.

    Raises `MeasurementError` where the table says too little, or nothing is small enough.
    """
    options = options_of(precision)
    if not isinstance(options, MixedOptions) or options.budget is None:
        raise ValueError(f"{precision.label}: no mix that is to be found")
    formats = _formats(options, table)
    rest = in_type(options.dtype)
    allowed = allowed_bytes(options.budget, shape)
    sizes = Sizes(as_loaded(shape, rest), allowed)
    _check_layers(table, sizes)
    choices = {
        unit.name: [
            Choice(None, sizes(unit.layers, rest), 0.0),
            *(
                Choice(label, sizes(unit.layers, ref), cost)
                for label, ref in formats.items()
                if (cost := _cost(unit.costs.get(label), options.by)) is not None
            ),
        ]
        for unit in table.units
    }
    fixed = allowed.counted(stored_bytes(shape, rest))
    fixed -= sum(of_unit[0].bytes for of_unit in choices.values())
    try:
        chosen = best_choices(choices, allowed.bytes - fixed)
    except OverBudgetError as error:
        why = why_too_small(options, allowed, error.least_bytes + fixed)
        raise MeasurementError(why + _not_measured(table, formats)) from None
    made = _with_layers(precision, options, table, {n: one.format for n, one in chosen.items()})
    static = stored_bytes(shape, made)
    kl, unknown = _predicted(table, chosen)
    return made, FoundMix(
        budget=options.budget,
        by=options.by,
        units={name: one.format or table.rest for name, one in chosen.items()},
        predicted_kl=kl,
        unknown=unknown,
        static_bytes=static.total,
        bits_per_weight=bits_per_weight(static, weights_of(shape))["linear"],
    )


def _formats(options: MixedOptions, table: Sensitivities) -> dict[str, PrecisionRef]:
    """Of the table's formats those that the mix is made from, by the table's labels."""
    if options.dtype != table.rest:
        raise MeasurementError(
            f"the sensitivities are those of a model in {table.rest}, and the rest of the mix is to"
            f" be in {options.dtype}; set the mix's dtype to {table.rest}"
        )
    found = {}
    for one in formats_of(options):
        known = (name for name, ref in table.formats.items() if _alike(one, ref))
        label = next(known, None)
        if label is None:
            raise MeasurementError(
                f"the sensitivities say nothing of {one.label}, only of {', '.join(table.formats)}"
            )
        found[label] = table.formats[label]
    return found


def _alike(one: PrecisionRef, measured: PrecisionRef) -> bool:
    """Whether a format is the one that was measured, whatever the device decided of that."""
    if one.name != measured.name:
        return False
    held, options, own = precisions()[one.name], options_of(one), options_of(measured)
    places = ((kind, bf16) for kind in ("cpu", "cuda") for bf16 in (True, False))
    decided = (held.for_device(options, kind, bf16=bf16) for kind, bf16 in places)
    return any(options.model_copy(update=changed) == own for changed in ({}, *decided))


def _not_measured(table: Sensitivities, formats: Mapping[str, PrecisionRef]) -> str:
    """Which pairs of units and formats are no choice, to end a message with; empty for none."""
    pairs = [
        (unit.name, label, unit.costs[label].reason)
        for unit in table.units
        for label in formats
        if label in unit.costs and unit.costs[label].kl is None
    ]
    if not pairs:
        return ""
    (name, label, reason), *others = pairs
    more = f", nor have {len(others)} other pairs" if others else ""
    return f"; {name} has no KL in {label} ({reason}){more}"


def _check_layers(table: Sensitivities, sizes: Sizes) -> None:
    unknown = [name for unit in table.units for name in unit.layers if name not in sizes.layers]
    if unknown:
        raise MeasurementError(
            f"{unknown[0]}: a layer of the sensitivities that is none of the model's shapes; write"
            " the mix by hand"
        )


def _cost(cost: Cost | None, by: By) -> float | None:
    """What is summed of a unit in a format; None where it was not measured.

    A divergence is above 0: what rounding leaves below is none. Errors of outputs are squared, as
    what they do to predictions grows with their squares.
    """
    measured = None if cost is None else cost.kl if by == "kl" else cost.output_error
    if measured is None:
        return None
    return max(measured, 0.0) if by == "kl" else measured**2


def _with_layers(
    precision: PrecisionRef,
    options: MixedOptions,
    table: Sensitivities,
    chosen: Mapping[str, str | None],
) -> PrecisionRef:
    """The precision by hand: a rule for each layer."""
    rules = []
    for unit in table.units:
        label = chosen[unit.name]
        held = None if label is None else table.formats[label]
        rules += [
            {
                "layers": name,
                "precision": None if held is None else held.name,
                "options": {} if held is None else held.options,
            }
            for name in unit.layers
        ]
    made = MixedOptions.model_validate({"dtype": options.dtype, "layers": rules})
    return precision.model_copy(update={"options": made.model_dump(mode="json")})


def _predicted(
    table: Sensitivities, chosen: Mapping[str, Choice]
) -> tuple[float | None, str | None]:
    """The sum of the units' own KL, or why there is none."""
    taken = [
        (unit, unit.costs[label])
        for unit in table.units
        if (label := chosen[unit.name].format) is not None
    ]
    lacking = [unit.name for unit, cost in taken if cost.kl is None]
    if lacking:
        return None, f"the KL of {len(lacking)} of its units alone was not measured"
    return math.fsum(cost.kl or 0.0 for _, cost in taken), None
