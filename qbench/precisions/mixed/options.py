"""The options of a mix: patterns of layers' names, and what the layers of each are held in."""

from __future__ import annotations

import json
import re
import warnings
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from qbench.core.aliases import Also, other_names
from qbench.core.names import did_you_mean, shortened
from qbench.core.number_types import BF16, FloatOption, FloatType
from qbench.core.reading import InvalidValueError, NotNull, invalid_below
from qbench.core.spec import Frozen
from qbench.precisions.mixed.budget import BudgetText

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from qbench.precisions.precision import Precision

REGEX = "re:"
"""What a pattern begins with that is a regular expression, as torchao's and others' do."""
COMPUTE, REST = "compute_dtype", "dtype"
"""Options of a precision that follow the mix's `dtype` unless they are given."""
Entry = str | dict[str, dict[str, Any] | None]
"""A name, or one name with options: `nf4`, `{integer: {bits: 5}}`."""
By = Literal["kl", "output_error"]
_EXPECTED = "a mapping of patterns to precisions, such as {'*.down_proj': int8, '*': nf4}"


class LayerRule(Frozen):
    """What the layers of one pattern are held in."""

    layers: str
    """Pattern of the names of linear layers."""
    precision: str | None
    """The precision's name; None: they stay in the type of the rest."""
    options: dict[str, Any] = Field(default_factory=dict)
    """All of its options, but for those types that follow the mix's `dtype`."""


def _read(value: object, info: ValidationInfo) -> object:
    """The rules of a mapping, or of a list as records have it; all that is wrong is raised."""
    dtype: FloatType = info.data.get(REST, BF16)
    if isinstance(value, dict):
        entries = [(str(pattern), held) for pattern, held in value.items()]
    elif isinstance(value, list | tuple) and all(isinstance(o, dict | LayerRule) for o in value):
        rules = [LayerRule.model_validate(one) for one in value]
        entries = [
            (one.layers, {one.precision: one.options} if one.precision else dtype) for one in rules
        ]
    else:
        raise InvalidValueError(_EXPECTED)
    made, wrong = [], []
    for pattern, held in entries:
        try:
            made.append(_rule(pattern, held, dtype))
        except InvalidValueError as reason:
            wrong += invalid_below((pattern,), reason).errors(include_url=False)
    if wrong:
        raise _all_of(wrong)
    return tuple(made)


def _read_formats(value: object, info: ValidationInfo) -> object:
    """What a mix is found from, as it is written, without the type of the rest."""
    entries = tuple(value) if isinstance(value, list | tuple) else (value,)
    kept: list[Entry] = []
    wrong: list[ErrorDetails] = []
    for at, entry in enumerate(entries):
        try:
            read = _read_format(entry, info.data.get(REST, BF16))
            if read is not None and read not in kept:
                kept.append(read)
        except InvalidValueError as reason:
            place = (at,) if isinstance(value, list | tuple) else ()
            wrong += invalid_below(place, reason).errors(include_url=False)
    if wrong:
        raise _all_of(wrong)
    if not kept:
        raise InvalidValueError(
            "at least one format that takes less than the type of the rest",
            remedy="add one, such as nf4",
        )
    return tuple(kept)


def _read_format(written: object, dtype: FloatType) -> Entry | None:
    """A format of single layers by its own name; None for the type of the rest."""
    name, given = read_entry(written)
    own = rule_of("*", name, given, dtype).precision
    return own if own is None or not given else {own: given}


class MixedOptions(Frozen):
    """Options of `mixed`: a map of layers, or a budget that one is found for."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    dtype: Annotated[FloatOption, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized: embeddings, head, norms, activations, and the layers that no
    pattern matches. The members' types follow it."""
    layers: Annotated[
        tuple[LayerRule, ...],
        BeforeValidator(
            _read, json_schema_input_type=dict[str, str | dict[str, Any]] | list[LayerRule]
        ),
    ] = ()
    """Patterns of layers' names, each with a precision's name, or `{name: {options}}`. The first
    pattern that matches a layer decides; a pattern is one as of file names (`*.down_proj`), or a
    regular expression after `re:` for the whole name."""
    budget: Annotated[BudgetText | None, NotNull()] = None
    """In place of `layers`: what the mix may take. `4.5 bits` are bits a weight of the linear
    layers, codes and quantization state; `5 GiB` are static bytes of the whole model. Which layer
    is held in what is found from the sensitivities that the reference's record has."""
    formats: Annotated[
        tuple[Entry, ...],
        BeforeValidator(_read_formats, json_schema_input_type=Entry | list[Entry]),
        Field(alias="from"),
    ] = ("nf4", "int8", "fp8")
    """Of a budget: precisions that layers may be held in, by name or with options. Every layer may
    also stay in `dtype`."""
    by: By = "kl"
    """Of a budget: what is to be least. `kl`, the sum of what each layer alone costs in nats a
    token; `output_error`, the sum of the squares of the relative errors of their outputs."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        given = self.model_fields_set
        if self.budget is not None and self.layers:
            raise InvalidValueError("`layers` or a `budget`", "both of them", "leave one out")
        if self.budget is None and given & {"formats", "by"}:
            raise InvalidValueError(
                "a `budget` beside what a mix is found from", remedy="add one, such as `4.5 bits`"
            )
        return self

    @model_serializer(mode="wrap")
    def _written(self, as_it_is: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is of no use beside the other."""
        written: dict[str, Any] = as_it_is(self)
        unused = ("budget", "from", "by") if self.budget is None else ("layers",)
        return {name: one for name, one in written.items() if name not in unused}


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern fits the name of a layer."""
    if pattern.startswith(REGEX):
        return re.fullmatch(pattern.removeprefix(REGEX), name) is not None
    return fnmatchcase(name, pattern)


def full_options(held: Precision, given: Mapping[str, Any], dtype: FloatType) -> Any:
    """A member's options as its own type, its types those of the mix unless they are given."""
    fields = held.options.model_fields
    types = {n: dtype for n in (COMPUTE, REST) if n in fields and given.get(n) is None}
    text = json.dumps({**given, **types})
    return held.in_mix(held.options.model_validate_json(text, strict=True))


def _rule(pattern: str, held: object, dtype: FloatType) -> LayerRule:
    """What a pattern's value says; raises `InvalidValueError`."""
    if pattern.startswith(REGEX):
        try:
            with warnings.catch_warnings():  # of what other versions of Python may read otherwise
                warnings.simplefilter("ignore", FutureWarning)
                re.compile(pattern.removeprefix(REGEX))
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidValueError(
                "a regular expression after re:", f"'{shortened(pattern)}' ({error})"
            ) from None
    name, given = read_entry(held)
    return rule_of(pattern, name, given, dtype)


def _all_of(wrong: list[ErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data(
        "layers",
        [
            InitErrorDetails(
                type=one["type"], loc=one["loc"], input=one["input"], ctx=one.get("ctx", {})
            )
            for one in wrong
        ],
    )


def read_entry(held: object) -> tuple[str, dict[str, Any]]:
    """A precision's name with its options; raises `InvalidValueError` for what is neither."""
    if isinstance(held, str):
        held = {held: None}
    if not isinstance(held, dict) or len(held) != 1:
        found = f"{len(held)} precisions" if isinstance(held, dict) else None
        raise InvalidValueError("a precision's name, or {name: {options}}", found)
    name, given = next(iter(held.items()))
    if not isinstance(given, dict | None):
        raise InvalidValueError(f"a mapping of the options of {name}, or nothing")
    return str(name), given or {}


def rule_of(pattern: str, name: str, given: Mapping[str, Any], dtype: FloatType) -> LayerRule:
    """A rule by the precision's own name, with all of its options.

    Raises `InvalidValueError` for one that holds no single layer beside a rest of that type.
    """
    from qbench.precisions import is_quantized, precisions, with_defaults
    from qbench.precisions.names import ONE_OF_THE_LIST, nearest_words, own_name

    own = own_name(name)
    if own is None:
        found = f"the unknown precision '{shortened(name)}'"
        raise InvalidValueError(ONE_OF_THE_LIST, found, nearest_words(name, precisions()))
    held = precisions()[own]
    aliases = other_names(held.options)
    options = _typed(held, {aliases.get(key, key): one for key, one in given.items()}, dtype)
    reason = held.unmixable(options)
    if reason is not None:
        raise InvalidValueError("a precision that a single layer can be held in", reason)
    rest = rest_of(held, options)
    if rest != dtype:
        raise InvalidValueError(
            f"a precision beside {dtype}, the type of the mix's rest",
            f"{own}, whose rest is in {rest}",
            f"leave the type out, or set the mix's dtype: {rest}",
        )
    if not is_quantized(with_defaults(own)):
        return LayerRule(layers=pattern, precision=None)
    return LayerRule(layers=pattern, precision=own, options=_kept(options, dtype))


def rest_of(held: Precision, options: Any) -> str | None:
    """The type of what a precision does not quantize; None where it does not say."""
    products = held.products(options)
    return getattr(options, REST, None) if products is None else products.rest


def _kept(options: Frozen, dtype: FloatType) -> dict[str, Any]:
    """All options but the types that follow the mix's."""
    plain = options.model_dump(mode="json").items()
    return {key: one for key, one in plain if key not in (COMPUTE, REST) or one != dtype}


def _typed(held: Precision, given: Mapping[str, Any], dtype: FloatType) -> Any:
    known = held.options.model_fields
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise InvalidValueError(
            f"one of {', '.join(known)}" if known else f"nothing: {held.name} has no options",
            f"the unknown option of {held.name} '{shortened(unknown)}'",
            did_you_mean(unknown, known),
        )
    try:
        return full_options(held, given, dtype)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        own = (first.get("ctx") or {}).get("error")
        said = first["msg"] if own is None else str(own)
        expected = f"{said.removeprefix('Input should be ')} as {place or 'options'} of {held.name}"
        found = f"{place}: {shortened(str(first['input']))}" if place else None
        if isinstance(own, InvalidValueError):
            raise InvalidValueError(expected, own.found or found, own.remedy) from None
        raise InvalidValueError(expected, found) from None
