"""Which formats single layers are held in where a suite measures sensitivities.

They are the suite's own or named under `measure`, and follow the type of the suite's reference.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, get_args

from qbench.core.number_types import FloatType
from qbench.core.reading import InvalidValueError
from qbench.core.spec import PrecisionRef
from qbench.measures.sensitivity.options import SENSITIVITY, SensitivityOptions, params_of
from qbench.plan.keys import reference_of
from qbench.precisions import is_quantized, options_of, precisions
from qbench.precisions.computing import rest_type
from qbench.precisions.mixed.layers import formats_of
from qbench.precisions.mixed.members import format_of
from qbench.precisions.mixed.options import MixedOptions
from qbench.predict.bf16 import has_bf16

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.errors import Problem
    from qbench.core.record import Environment
    from qbench.core.spec import Item, ResolvedModel
    from qbench.plan.suite.suite import Suite
    from qbench.precisions.mixed.options import Entry

_FLOATING = frozenset(get_args(FloatType))


def with_formats(
    suite: Suite, models: Mapping[str, ResolvedModel], items: Mapping[str, list[Item]]
) -> tuple[dict[str, list[Item]], list[Problem]]:
    """Every model's items, those of sensitivities with formats; with what is wrong with these."""
    options = suite.measure.get(SENSITIVITY)
    if not isinstance(options, SensitivityOptions):
        return dict(items), []
    problems: dict[str, Problem] = {}
    made = {}
    for name, found in items.items():
        reference = _reference(suite, models[name])
        rest, formats = "", tuple[PrecisionRef, ...]()
        if reference is not None and is_quantized(reference):
            rest = reference.name
        elif reference is not None:
            rest = rest_type(reference)
            formats = _formats(suite, options, rest_type(reference), problems)
            formats = _with_those_of_mixes(suite, formats, rest_type(reference), problems)
        params = {
            "rest": rest,
            "formats": [one.model_dump(mode="json") for one in formats],
        }
        made[name] = [
            item.model_copy(update={"params": {**item.params, **params}})
            if item.measurement == SENSITIVITY
            else item
            for item in found
        ]
    return made, list(problems.values())


def on_device(item: Item, environment: Environment) -> Item:
    """The item with what of its formats the device decides, such as the kernel."""
    if item.measurement != SENSITIVITY:
        return item
    kind, bf16 = environment.device_type, has_bf16(environment)
    formats = []
    for one in params_of(item).formats:
        changed = precisions()[one.name].for_device(options_of(one), kind, bf16=bf16)
        placed = one.model_copy(update={"options": {**one.options, **changed}})
        formats.append(placed.model_dump(mode="json"))
    return item.model_copy(update={"params": {**item.params, "formats": formats}})


def _reference(suite: Suite, model: ResolvedModel) -> PrecisionRef | None:
    label = reference_of(suite, model)
    return next((one for one in suite.precisions if one.label == label), None)


def _formats(
    suite: Suite, options: SensitivityOptions, rest: FloatType, problems: dict[str, Problem]
) -> tuple[PrecisionRef, ...]:
    """The formats, each once, on a model whose rest is of that type."""
    named = {one.label: one for one in suite.precisions}
    found: list[PrecisionRef] = []
    asked = _of_suite(suite) if options.formats is None else options.formats
    for index, entry in enumerate(asked):
        try:
            made = _format(entry, rest, named)
        except InvalidValueError as wrong:
            if options.formats is not None:
                place = f"measure.{SENSITIVITY}.formats[{index}]"
                said = wrong.found or str(entry)
                problem = suite.problem(place, said, str(wrong), wrong.remedy)
                problems[str(problem)] = problem
            continue
        if not any((one.name, one.options) == (made.name, made.options) for one in found):
            found.append(made)
    return tuple(found)


def _format(entry: Entry, rest: FloatType, named: Mapping[str, PrecisionRef]) -> PrecisionRef:
    made = format_of(entry, rest, named)
    if not is_quantized(made):
        expected, found = "a format of codes", f"{made.label}, which the reference is held in"
        raise InvalidValueError(expected, found, "leave it out: it costs nothing")
    return made


def _with_those_of_mixes(
    suite: Suite,
    formats: tuple[PrecisionRef, ...],
    rest: FloatType,
    problems: dict[str, Problem],
) -> tuple[PrecisionRef, ...]:
    """The formats with those that mixes are to be found from, each once."""
    found = list(formats)
    for mix in suite.precisions:
        options = options_of(mix)
        if not isinstance(options, MixedOptions) or options.budget is None:
            continue
        if options.dtype != rest:
            problem = suite.problem(
                "precisions",
                f"{mix.label}, whose rest is in {options.dtype}, beside a reference in {rest}",
                "a mix with the rest of the reference, in which its layers' damages are measured",
                f"give the mix `dtype: {rest}`, or take {options.dtype} as the reference",
            )
            problems[str(problem)] = problem
            continue
        for one in formats_of(options):
            if not any((own.name, own.options) == (one.name, one.options) for own in found):
                # A label of the suite's may be that of other options.
                labels = {own.label for own in found}
                label = next(
                    name for n in count(1) if (name := one.label + f"-{n}" * (n > 1)) not in labels
                )
                found.append(one.model_copy(update={"label": label}))
    return tuple(found)


def _of_suite(suite: Suite) -> tuple[str, ...]:
    """The suite's precisions in which a layer can be held by itself."""
    return tuple(
        one.label
        for one in suite.precisions
        if is_quantized(one) and precisions()[one.name].unmixable(options_of(one)) is None
    )


def why_not_measured(item: Item, environment: Environment) -> str | None:
    """Why there is no table of an item's sensitivities on this machine; None if there is one."""
    if item.measurement != SENSITIVITY:
        return None
    params = params_of(item)
    if params.rest not in _FLOATING:
        return (
            f"the reference, {params.rest}, holds codes, so that no layer of it can be held in"
            " another format alone; take fp32, bf16 or fp16 as the reference"
        )
    if not params.formats:
        return (
            "none of the suite's precisions is a format that single layers can be held in; name"
            f" some under measure.{SENSITIVITY}.formats"
        )
    kind, bf16 = environment.device_type, has_bf16(environment)
    for one in params.formats:
        held, options = precisions()[one.name], options_of(one)
        reason = (
            held.unavailable(environment)
            or held.misplaced(options, kind, bf16=bf16)
            or held.incapable(options, environment)
        )
        if reason is not None:
            return (
                f"{one.label}: {reason}; or leave it out where it is named: measure.{SENSITIVITY}"
                ".formats (the suite's precisions unless given), and `from` of mixes"
            )
    return None
