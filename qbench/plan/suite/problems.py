"""What is wrong with a suite, in words: collected, so that all of it is reported at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.errors import Problem
from qbench.core.names import nearest, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.plan.suite.yaml_lines import Node


class Findings:
    """The problems of one file."""

    def __init__(self, file: str, problems: Sequence[Problem] = ()) -> None:
        """Starts with the problems of the YAML itself."""
        self.file = file
        self._problems = list(problems)
        self._spoiled = {problem.path for problem in problems} - {""}

    def add(
        self,
        node: Node,
        expected: str,
        *,
        found: str | None = None,
        remedy: str | None = None,
        at_key: bool = False,
    ) -> None:
        """Notes a problem with a value, or with its key.

        `found` defaults to the value in words. A value that could not be read from the YAML has
        its problem already and gets no second one.
        """
        if node.path in self._spoiled:
            return
        line = node.key_line if at_key else node.line
        found = in_words(node) if found is None else found
        self._problems.append(Problem(self.file, node.path, found, expected, line, remedy))

    def add_unknown(
        self, node: Node, kind: str, name: str, known: Iterable[str], hint: str | None = None
    ) -> None:
        """Notes a name that is not among the known ones, with the nearest of them or the hint."""
        names = tuple(known)
        expected = f"one of {', '.join(names)}" if names else f"nothing: there is no {kind}"
        remedy = hint or nearest(name, names)
        found = f"the unknown {kind} '{shortened(name)}'"
        self.add(node, expected, found=found, remedy=remedy, at_key=True)

    def __len__(self) -> int:
        """How many there are so far."""
        return len(self._problems)

    def sorted(self) -> tuple[Problem, ...]:
        """All problems in the order of their lines, each once."""
        once = dict.fromkeys(self._problems)
        return tuple(sorted(once, key=lambda problem: problem.line or 0))


def in_words(node: Node) -> str:
    """What a value is, for someone who has not read the YAML specification."""
    value = node.value
    if value is None:
        return "nothing (an empty value)"
    if isinstance(value, bool):
        return f"the truth value {node.text}"
    if isinstance(value, int | float):
        return f"the number {shortened(node.text)}"
    if isinstance(value, str):
        return f"the text '{shortened(value)}'" if value else "an empty text"
    if isinstance(value, tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return f"a mapping ({shortened(', '.join(value))})" if value else "an empty mapping"


def amendment(node: Node, schema: dict[str, Any]) -> str | None:
    """What to do about a value that does not fit a JSON Schema; None where nothing is at hand."""
    value = node.value
    parts = (schema, *schema.get("anyOf", ()))
    kinds = {part.get("type") for part in parts}
    names = [str(name) for part in parts for name in part.get("enum", ())]
    if value is None:
        return "give it a value, or remove the line"
    if isinstance(value, bool | int | float) and "string" in kinds and not names:
        return "put it in quotes"
    if isinstance(value, list | dict):
        return None
    if isinstance(value, str) and kinds & {"integer", "number"}:
        digits = value.replace("_", "").replace(",", "").strip()
        if digits.isdecimal():
            return f"write {shortened(digits)}, without quotes or separators"
    if isinstance(value, str) and "boolean" in kinds:
        meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false"}
        plain = meant.get(value.lower(), value.lower())
        return f"write {plain}" if plain in {"true", "false"} else None
    return nearest(node.text, names)


def fixed_by(schema: dict[str, Any]) -> str | None:
    """What fixes an option that has one value alone, and what has others; None for any other."""
    if "const" not in schema and schema.get("type") != "null":
        return None
    words = str(schema.get("description", "remove the line")).removesuffix(".")
    return words[:1].lower() + words[1:]


def expectation(schema: dict[str, Any]) -> str:
    """What a JSON Schema of one value asks for, in words."""
    if "const" in schema:
        return f"{schema['const']} alone"
    if "enum" in schema:
        return f"one of {', '.join(str(choice) for choice in schema['enum'])}"
    if "anyOf" in schema:
        first, *others = (part for part in schema["anyOf"] if part.get("type") != "null")
        words = [expectation(first)]
        for part in others:
            listed = part.get("type") == "array" and part.get("items") == first
            words.append("a list of them" if listed else expectation(part))
        return ", or ".join(words)
    kind = schema.get("type")
    if kind in {"integer", "number"}:
        return _number(schema, "whole number" if kind == "integer" else "number")
    if kind == "array":
        return f"a list, each entry {expectation(schema.get('items', {}))}"
    plain = {
        "string": "text",
        "boolean": "true or false",
        "object": "a mapping",
        "null": "no value",
    }
    return plain.get(str(kind), "another value")


def _number(schema: dict[str, Any], noun: str) -> str:
    words = {
        "exclusiveMinimum": "greater than",
        "minimum": "of at least",
        "exclusiveMaximum": "less than",
        "maximum": "of at most",
    }
    bounds = {key: schema[key] for key in words if key in schema}
    if bounds.get("exclusiveMinimum") == 0:
        del bounds["exclusiveMinimum"]
        noun = f"positive {noun}"
    limits = " and ".join(f"{words[key]} {bound:g}" for key, bound in bounds.items())
    return f"a {noun} {limits}".strip()
