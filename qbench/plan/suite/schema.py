"""The JSON Schema of a suite's file: as messages read it, and as editors do."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from qbench.core.aliases import ALIASES, NEAR, OTHER_VALUES
from qbench.plan.suite.file import SuiteFile

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema


class PlainSchema(GenerateJsonSchema):
    """JSON Schema without the titles of fields, and without defaults that no suite can state."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title would only say the key once more."""
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Of a default that means "not given", nothing is said unless null may be written."""
        made = super().default_schema(schema)
        stated = made.get("default") or {"type": "null"} in made.get("anyOf", ())
        if not stated and made.get("default") in (None, []):
            made.pop("default", None)
        return made


@cache
def told_schema() -> JsonSchemaValue:
    """The schema by which messages say what is wrong: each option once, beside its other names."""
    return SuiteFile.model_json_schema(schema_generator=PlainSchema)


@cache
def suite_schema() -> JsonSchemaValue:
    """JSON Schema of a suite's file, draft 2020-12, with all that is installed.

    It refuses what `load_suite` refuses, as far as one value tells. Editors offer each option by
    its own name alone, and take the others.
    """
    heading = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    made: JsonSchemaValue = _published(told_schema(), "#")
    return heading | made


def _published(part: Any, place: str) -> Any:
    """The schema with other names as what JSON Schema knows; `place` is a pointer to it."""
    if isinstance(part, list):
        return [_published(one, f"{place}/{index}") for index, one in enumerate(part)]
    if not isinstance(part, dict):
        return part
    made = {
        key: _published(one, f"{place}/{_escaped(key)}")
        for key, one in part.items()
        if key not in {ALIASES, NEAR, OTHER_VALUES}
    }
    if isinstance(part.get("properties"), dict):
        _add_names(made, part["properties"], f"{place}/properties")
    if other := part.get(OTHER_VALUES):
        values = {key: made.pop(key) for key in ("enum", "type") if key in made}
        # A pattern, which no editor offers to complete.
        named = "|".join(name.replace(".", r"\.") for name in other)
        made["anyOf"] = [values, {"type": "string", "pattern": f"^({named})$"}]
    return made


def _add_names(made: dict[str, Any], fields: dict[str, Any], place: str) -> None:
    """Takes each field by its other names, but not by two of them; the description tells them."""
    patterns: dict[str, Any] = {}
    together: list[dict[str, Any]] = []
    for key, field in fields.items():
        names = field.get(ALIASES, ())
        if not names:
            continue
        own = made["properties"][key]
        told = f"Also: {', '.join(names)}."
        own["description"] = f"{own['description']} {told}" if "description" in own else told
        for name in names:
            patterns[f"^{name}$"] = {"$ref": f"{place}/{_escaped(key)}"}
        together += [{"not": {"required": [*pair]}} for pair in combinations((key, *names), 2)]
        if key in made.get("required", ()):
            made["required"] = [one for one in made["required"] if one != key]
            together.append({"anyOf": [{"required": [one]} for one in (key, *names)]})
    if patterns:
        made["patternProperties"] = patterns
        made["allOf"] = together


def _escaped(key: str) -> str:
    """A key as JSON Pointer writes it, within a URI."""
    return key.replace("~", "~0").replace("/", "~1")
