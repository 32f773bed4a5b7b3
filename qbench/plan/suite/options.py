"""The options of a precision, a measurement or a method, read by their own pydantic model."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from qbench.core.aliases import ALIASES, NEAR, keys_of, other_names
from qbench.core.docstrings import describe
from qbench.core.reading import InvalidValueError, one_or_more

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

    from qbench.core.spec import Frozen

MAX_SWEEP = 200
"""Precisions that one entry may sweep into."""
_ABOUT = ("description", "default", ALIASES, NEAR)
"""What a JSON Schema says of an option rather than of its value."""


class HasOptions(Protocol):
    """A precision or a measurement, as far as its options go."""

    @property
    def options(self) -> type[Frozen]:
        """The class of its options; every one has a default."""


class Choice(NamedTuple):
    """Options that a suite has chosen."""

    options: Frozen
    swept: dict[str, Any]
    """Those of them that were given as lists, with this combination's values."""

    @classmethod
    def of(cls, options: Frozen, swept: Iterable[str] = ()) -> Choice:
        """The options, of which those were swept."""
        dumped = options.model_dump(mode="json")
        return cls(options, {name: dumped[name] for name in swept})


def owners(option: str, table: Mapping[str, HasOptions]) -> list[str]:
    """The names in the table that have this option, by its own or another name."""
    return [
        name
        for name, entry in table.items()
        if option in keys_of(entry.options) or option in other_names(entry.options)
    ]


@dataclass(frozen=True)
class Options:
    """Reads what stands under a name as its options; nothing stands for the defaults."""

    owner: str
    model: type[Frozen]

    def read(self, value: object) -> Frozen:
        """The options; raises `ValidationError`, or `InvalidValueError` for what is no mapping."""
        # The strict reading of JSON: the text '128' is no number, yet a list serves as a tuple.
        text = json.dumps(self._mapping(value), ensure_ascii=False).encode(errors="replace")
        return self.model.model_validate_json(text, strict=True)

    def _mapping(self, value: object) -> dict[str, Any]:
        if value is None or isinstance(value, dict):
            return value or {}
        raise InvalidValueError(f"a mapping of the options of {self.owner}, or nothing")

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [self._own_schema(handler), {"type": "null"}]}

    def _own_schema(self, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        own = handler.resolve_ref_schema(handler(self.model.__pydantic_core_schema__))
        describe(own, self.model)
        return own


class Swept(Options):
    """Reads options of which each may be a list of values: one choice for each combination."""

    def read(self, value: object) -> tuple[Choice, ...]:  # type: ignore[override]
        """All combinations, in order; what is wrong with any of them is raised at once."""
        entries = self._mapping(value)
        lists = self._lists(entries)
        count = math.prod(map(len, lists.values()))
        if count > MAX_SWEEP:
            found = f"{count} combinations of options"
            raise InvalidValueError(f"at most {MAX_SWEEP}", found, "shorten the lists")
        made: list[Choice] = []
        errors: list[InitErrorDetails] = []
        for indices in itertools.product(*(range(len(values)) for values in lists.values())):
            taken = dict(zip(lists, indices, strict=True))
            chosen = entries | {name: lists[name][index] for name, index in taken.items()}
            try:
                made.append(Choice.of(super().read(chosen), lists))
            except ValidationError as error:
                errors += _with_index(error, taken)
        if errors:
            raise ValidationError.from_exception_data(self.owner, errors)
        return tuple(made)

    def _lists(self, entries: Mapping[str, object]) -> dict[str, list[Any]]:
        """The options that are swept: no list is a value of theirs."""
        given = {name: one for name, one in entries.items() if isinstance(one, list) and one}
        fields = self.model.model_json_schema().get("properties", {}) if given else {}
        return {
            name: one
            for name, one in given.items()
            if name in fields and not _is_list(fields[name])
        }

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        own = self._own_schema(handler)
        fields = {}
        for name, field in own.get("properties", {}).items():
            about = {key: field[key] for key in _ABOUT if key in field}
            value = {key: part for key, part in field.items() if key not in about}
            fields[name] = field if _is_list(field) else about | one_or_more(value)
        return {"anyOf": [own | {"properties": fields}, {"type": "null"}]}


def _with_index(error: ValidationError, taken: Mapping[str, int]) -> list[InitErrorDetails]:
    """The errors of one combination, each with the index of the value that was taken of a list."""
    details = []
    for one in error.errors(include_url=False):
        loc = one["loc"]
        if loc and loc[0] in taken:
            loc = (loc[0], taken[str(loc[0])], *loc[1:])
        # A type of error that pydantic defines, made again by its name, would ask for its context.
        kind = PydanticCustomError(one["type"], one["type"], one.get("ctx"))
        details.append(InitErrorDetails(type=kind, loc=loc, input=one["input"]))
    return details


def _is_list(schema: Mapping[str, Any]) -> bool:
    """Whether a list is a value of the option itself, so that it cannot mean a sweep."""
    return any(part.get("type") == "array" for part in (schema, *schema.get("anyOf", ())))
