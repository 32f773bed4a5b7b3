"""Other names of options and of their values: what the field calls the same thing.

They are taken in files that people write, and nowhere else. Where such a file is read, each becomes
the one name that qbench has for it, which alone stands in messages, records and keys.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

ALIASES = "aliases"
"""In the JSON Schema of a field: its other names."""
NEAR = "near"
"""In the JSON Schema of a field: names of something near it, each with the difference."""
OTHER_VALUES = "otherValues"
"""In the JSON Schema of a value: other names of what its `enum` lists."""


class Also:
    """Of a field: other names, which mean the same and may stand in its place in a file.

        batch: Annotated[PositiveInt, Also("batch_size")] = 4

    `unlike` are names of something near the field, each with a sentence that says where it differs
    and what to write: an error that is about such a name ends with it. It may be a function, called
    when there is an error.
    """

    def __init__(
        self, *names: str, unlike: Mapping[str, str] | Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self.names = names
        self.unlike = unlike

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        near = self.unlike() if callable(self.unlike) else self.unlike
        return handler(schema) | {ALIASES: list(self.names), NEAR: dict(near)}


class AlsoValues:
    """Of a field whose values are a few texts: other names of these."""

    def __init__(self, meant: Mapping[str, str]) -> None:
        """Each other name, with the value that it means."""
        self.meant = meant

    def _own(self, value: object) -> object:
        return self.meant.get(value, value) if isinstance(value, str) else value

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._own, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {OTHER_VALUES: list(self.meant)}


def keys_of(model: type[BaseModel]) -> list[str]:
    """A model's fields by the names that files have, in their order: such as `from`."""
    return [field.alias or name for name, field in model.model_fields.items()]


@cache
def other_names(model: type[BaseModel]) -> Mapping[str, str]:
    """The keys of a model's fields, as files have them, by their other names."""
    return {
        name: field.alias or key
        for key, field in model.model_fields.items()
        for also in field.metadata
        if isinstance(also, Also)
        for name in also.names
    }
