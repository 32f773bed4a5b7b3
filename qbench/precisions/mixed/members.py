"""A format that single layers of a model are held in, as a suite names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qbench.core.errors import UsageError
from qbench.core.names import what_there_is
from qbench.core.options import plain_options, shown_options
from qbench.core.spec import PrecisionRef, slugify
from qbench.precisions import is_quantized, options_of, precisions, with_defaults
from qbench.precisions.computing import computed_in, rest_type
from qbench.precisions.names import own_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.number_types import FloatType

Entry = str | dict[str, dict[str, Any] | None]
"""A name, or one name with options: `nf4`, `{integer: {bits: 5}}`."""


def member_of(
    entry: Entry, rest: FloatType, named: Mapping[str, PrecisionRef] | None = None
) -> PrecisionRef:
    """The format, with the options that it has where the rest of the model is of a type.

    `named` are precisions by labels of a suite, which come before those of the table. Types that
    the entry itself does not give follow `rest`. Raises `UsageError` for what is no precision, or
    holds no single layer beside others of that type.
    """
    name, given = (entry, None) if isinstance(entry, str) else _one(entry)
    labelled = (named or {}).get(name)
    if labelled is not None and given is None:
        made = computed_in(labelled, rest) or labelled
        return _in_mix(made.model_copy(update={"label": labelled.label}), rest)
    own = own_name(name)
    if own is None:
        table = {**(named or {}), **precisions()}
        raise UsageError(f"{name!r} is no precision; {what_there_is(name, table)}")
    plain = with_defaults(own)
    made = computed_in(plain, rest) or plain
    label = own
    if given:
        typed, given = _typed(own, given, made)
        label = slugify("-".join([own, *shown_options(given)]))
        made = made.model_copy(update={"options": typed})
    return _in_mix(made.model_copy(update={"label": label}), rest)


def _in_mix(ref: PrecisionRef, rest: FloatType) -> PrecisionRef:
    held, options = precisions()[ref.name], options_of(ref)
    reason = held.unmixable(options)
    if reason is not None:
        raise UsageError(f"{ref.label}: {reason}")
    if not is_quantized(ref) and ref.name != rest:
        raise UsageError(
            f"{ref.label}: the rest of the model is held in {rest}, and a layer of another floating"
            f" type would need its inputs converted; leave it out, or hold the rest in {ref.name}"
        )
    if rest_type(ref) != rest:
        raise UsageError(
            f"{ref.label}: its dtype is {rest_type(ref)}, and the rest of the model is held in"
            f" {rest}; leave dtype out"
        )
    options = held.in_mix(options)
    return ref.model_copy(update={"options": options.model_dump(mode="json")})


def _one(entry: dict[str, dict[str, Any] | None]) -> tuple[str, dict[str, Any] | None]:
    if len(entry) != 1:
        raise UsageError(
            f"{', '.join(entry) or 'an empty mapping'}: expected one precision with its options,"
            " such as {integer: {bits: 5}}; begin each with a dash"
        )
    [(name, given)] = entry.items()
    return name, given


def _typed(
    name: str, given: dict[str, Any], followed: PrecisionRef
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All options, and those that were given: types that are not given are those of `followed`."""
    model = precisions()[name].options
    types = {
        option: followed.options[option]
        for option in ("compute_dtype", "dtype")
        if option in followed.options and option not in given
    }
    if "compute_dtype" in given and "dtype" in types:
        types["dtype"] = rest_type(followed)
    try:
        # The strict reading of JSON, as of the suite's other options.
        read = model.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{name}: {place}: {first['msg']}") from None
    told = plain_options(read)
    whole = model.model_validate({**read.model_dump(mode="json"), **types})
    return whole.model_dump(mode="json"), told
