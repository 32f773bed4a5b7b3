"""The options of a precision or a measurement: from a suite's YAML to their typed object."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from qbench.plan.suite.problems import amendment, expectation, fixed_by, in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qbench.core.spec import Frozen
    from qbench.plan.suite.problems import Findings
    from qbench.plan.suite.yaml_lines import Node

MAX_SWEEP = 200
"""Precisions that one entry may sweep into."""


class HasOptions(Protocol):
    """A precision or a measurement, as far as its options go."""

    @property
    def options(self) -> type[Frozen]:
        """The class of its options; every one has a default."""


def options_schema(options: type[Frozen], ref_prefix: str = "") -> dict[str, Any]:
    """JSON Schema of the options, with its own `$defs` where it has nested parts."""
    schema = options.model_json_schema(ref_template=f"#/$defs/{ref_prefix}{{model}}")
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)  # a title would only say the key once more
        if "anyOf" in field and "minLength" in field:
            # pydantic does not see that the length of a "one or more" field is a list's.
            field["minItems"] = field.pop("minLength")
    return schema


def is_list(schema: Mapping[str, Any]) -> bool:
    """Whether a list is a value of the option itself, so that it cannot mean a sweep."""
    return any(part.get("type") == "array" for part in (schema, *schema.get("anyOf", ())))


def read_options(
    findings: Findings, node: Node, owner: str, table: Mapping[str, HasOptions]
) -> Frozen | None:
    """The options under a name of the table; None when they have problems."""
    entries = _known_entries(findings, node, owner, table)
    return None if entries is None else _validated(findings, node, table[owner].options, entries)


def read_sweep(
    findings: Findings, node: Node, owner: str, table: Mapping[str, HasOptions]
) -> list[tuple[Frozen, dict[str, Any]]]:
    """The options under a name of the table, once for each combination of the lists among them.

    Beside each the options that were swept, with this combination's values. Combinations with
    problems are left out.
    """
    entries = _known_entries(findings, node, owner, table)
    if entries is None:
        return []
    options = table[owner].options
    fields = options_schema(options).get("properties", {})
    choices: dict[str, tuple[Node, ...]] = {}
    for name, child in entries.items():
        if not isinstance(child.value, tuple) or is_list(fields[name]):
            choices[name] = (child,)
        elif child.value:
            choices[name] = child.value
        else:
            findings.add(child, "at least one value to sweep over")
    count = math.prod(len(values) for values in choices.values())
    if count > MAX_SWEEP:
        found = f"{count} combinations of options"
        findings.add(node, f"at most {MAX_SWEEP}", found=found, remedy="shorten the lists")
        return []
    swept = [name for name, values in choices.items() if values != (entries[name],)]
    made = []
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        checked = _validated(findings, node, options, chosen)
        if checked is not None:
            dumped = checked.model_dump(mode="json")
            made.append((checked, {name: dumped[name] for name in swept}))
    return made


def owners(option: str, table: Mapping[str, HasOptions]) -> list[str]:
    """The names in the table that have this option."""
    return [name for name, entry in table.items() if option in entry.options.model_fields]


def _known_entries(
    findings: Findings, node: Node, owner: str, table: Mapping[str, HasOptions]
) -> dict[str, Node] | None:
    """The options by name, unknown ones noted and left out; None for something else."""
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        findings.add(node, f"a mapping of the options of {owner}, or nothing")
        return None
    fields = table[owner].options.model_fields
    for name, child in node.value.items():
        if name not in fields:
            elsewhere = owners(name, table)
            hint = f"'{name}' is an option of {', '.join(elsewhere)}" if elsewhere else None
            findings.add_unknown(child, f"option of {owner}", name, fields, hint)
    return {name: child for name, child in node.value.items() if name in fields}


def _validated(
    findings: Findings, node: Node, options: type[Frozen], chosen: Mapping[str, Node]
) -> Frozen | None:
    """The options object, or None with the problems noted at their values."""
    plain = {name: child.plain() for name, child in chosen.items()}
    try:
        # The strict reading of JSON: the text '128' is no number, yet a list serves as a tuple.
        return options.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        fields = options_schema(options).get("properties", {})
        for detail in error.errors(include_url=False):
            _note(findings, node, chosen, fields, detail)
        return None


def _note(
    findings: Findings,
    node: Node,
    chosen: Mapping[str, Node],
    fields: Mapping[str, dict[str, Any]],
    detail: Any,
) -> None:
    """Notes one of pydantic's errors in our words, at the innermost value that it speaks of."""
    location = detail["loc"]
    place = chosen.get(location[0]) if location else node
    schema = dict(fields.get(location[0], {})) if location else {}
    if place is None:
        expected = f"the option `{location[0]}`, {expectation(schema)}"
        findings.add(node, expected, found=in_words(node), remedy="add it")
        return
    for step in location[1:]:
        child = place.child(step)
        if child is None:
            break
        if isinstance(step, int):
            schema = _element(schema)
        place = child
    if detail["type"] == "extra_forbidden":
        findings.add(place, "a known key", found=f"the unknown key '{location[-1]}'", at_key=True)
        return
    reason = detail.get("ctx", {}).get("error")
    expected = expectation(schema) if reason is None else str(reason)
    findings.add(place, expected, remedy=fixed_by(schema) or amendment(place, schema))


def _element(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an element of a list."""
    parts: Iterator[dict[str, Any]] = iter((schema, *schema.get("anyOf", ())))
    listed = next((part for part in parts if part.get("type") == "array"), {})
    return dict(listed.get("items", {}))
