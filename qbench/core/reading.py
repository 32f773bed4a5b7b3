"""The forms that a value of a person's file may have, for the models that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


STRICT = ConfigDict(strict=True, defer_build=True)
"""Of what reads a mapping of a file. It is built when the first file is read: the tables that
entries come from may load other packages."""


class InvalidValueError(ValueError):
    """A value that does not fit for a reason which its JSON Schema does not tell."""

    def __init__(self, expected: str, found: str | None = None, remedy: str | None = None) -> None:
        """`found` is the value in words unless given."""
        super().__init__(expected)
        self.found = found
        self.remedy = remedy


def invalid_below(steps: tuple[str | int, ...], reason: InvalidValueError) -> ValidationError:
    """What does not fit below a value, where the steps lead."""
    detail = InitErrorDetails(type="value_error", loc=steps, input=None, ctx={"error": reason})
    return ValidationError.from_exception_data("suite", [detail])


def expects(words: str, **more: Any) -> Any:
    """Of a field: what is expected of its value, in words that editors show too."""
    return Field(json_schema_extra={"errorMessage": words}, **more)


class NotNull:
    """Of a field that is None where its key is left out: nothing after the colon is no value."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


@dataclass(frozen=True)
class OneOrMore:
    """Reads a list; a value that is no list stands for a list of it."""

    what: str
    """What there is at least, such as `one model`."""
    remedy: str
    """What to do about an empty list."""
    unique: bool = False
    """Whether none is listed twice."""

    def _listed(self, value: object) -> tuple[object, ...]:
        if value is None or value == []:
            raise InvalidValueError(f"at least {self.what}", remedy=self.remedy)
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        more = {"uniqueItems": True} if self.unique else {}
        return one_or_more(handler(schema)["items"], **more)


def one_or_more(schema: JsonSchemaValue, **more: Any) -> JsonSchemaValue:
    """The JSON Schema of a value, or a list of them."""
    listed = {"type": "array", "items": schema, "minItems": 1} | more
    return {"anyOf": [*schema.get("anyOf", [schema]), listed]}
