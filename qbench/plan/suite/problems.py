"""What is wrong with a suite, in words: collected, so that all of it is reported at once.

The words for what is expected stand in the JSON Schema, where editors find them too: in its types
and bounds, and under `errorMessage` where these say too little.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qbench.core.aliases import OTHER_VALUES
from qbench.core.names import did_you_mean, nearest_name, shortened
from qbench.core.spec import slugify
from qbench.plan.suite.node import Node
from qbench.precisions.names import ONE_OF_THE_LIST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.errors import Problem

Steps = tuple[str | int, ...]
"""Keys and indices that lead to a value."""


class Problems:
    """The problems of one file."""

    def __init__(self, file: str, top: Node | None, problems: Sequence[Problem] = ()) -> None:
        """Starts with the problems of the YAML itself; places are looked up below `top`."""
        self.file = file
        self.top = Node(None, "", 1, 1) if top is None else top
        self.kept: Mapping[Steps, Sequence[int]] = {}
        """Of lists that entries were left out of: the indices of the others, in the file."""
        self._problems = list(problems)
        self._spoiled = {problem.place for problem in problems} - {""}

    def place(self, at: Sequence[str | int]) -> Node:
        """The value that keys and indices lead to.

        Steps that the file does not have do not count: it may say the same in a short form.
        """
        node = self.top
        for index, step in enumerate(at):
            kept = self.kept.get(tuple(at[:index]))
            node = node.child(step if kept is None else kept[int(step)]) or node
        return node

    def add(
        self,
        place: Node | Sequence[str | int],
        expected: str,
        *,
        found: str | None = None,
        remedy: str | None = None,
        at_key: bool = False,
    ) -> None:
        """Notes a problem with a value, or with its key; `found` is the value in words by default.

        A value that could not be read from the YAML has its problem already and gets no second one.
        """
        node = place if isinstance(place, Node) else self.place(place)
        if node.path in self._spoiled:
            return
        found = in_words(node) if found is None else found
        self._problems.append(node.problem(self.file, found, expected, remedy, at_key=at_key))

    def add_unknown(
        self,
        place: Node | Sequence[str | int],
        kind: str,
        name: str,
        known: Iterable[str],
        hint: str | None = None,
        other: Mapping[str, str] | None = None,
    ) -> None:
        """Notes a name that is not among the known ones, with the nearest of them or the hint.

        `other` are further names of the known ones: the nearest may be one of these.
        """
        names = tuple(known)
        expected = f"one of {', '.join(names)}" if names else f"nothing: there is no {kind}"
        if kind == "precision":
            expected = ONE_OF_THE_LIST
        found = f"the unknown {kind} '{shortened(name)}'"
        nearest = nearest_name(name, (*names, *(other or ())))
        if nearest is not None and hint is None:
            own = (other or {}).get(nearest)
            hint = f"did you mean '{nearest}'{f', which is `{own}`' if own else ''}?"
        self.add(place, expected, found=found, remedy=hint, at_key=True)

    def has(self, *keys: str) -> bool:
        """Whether there is a problem below one of the keys of the file."""
        return any(problem.place.startswith(keys) for problem in self._problems)

    def __len__(self) -> int:
        """How many there are so far."""
        return len(self._problems)

    def sorted(self) -> tuple[Problem, ...]:
        """All problems in the order of their lines, each once."""
        once = dict.fromkeys(self._problems)
        return tuple(sorted(once, key=lambda problem: problem.line or 0))


def leave_out(written: dict[str, Any], wrong: Iterable[Steps]) -> dict[Steps, list[int]]:
    """Leaves out what is wrong of what a file says: entries of lists, options of measurements.

    Returns for each list that got shorter the indices that its entries had.
    """
    kept: dict[Steps, list[int]] = {}
    for steps in dict.fromkeys(_left_out(each) for each in wrong if each):
        *above, last = steps
        holder: Any = written
        for step in above:
            holder = holder.get(step, {}) if isinstance(holder, dict) else {}
        if not isinstance(last, int):
            holder.pop(last, None)
        elif isinstance(holder, list):
            indices = kept.setdefault(tuple(above), list(range(len(holder))))
            del holder[indices.index(last)], indices[indices.index(last)]
    for steps, indices in kept.items():
        if not indices:
            leave_out(written, [steps])
    return kept


def _left_out(steps: Steps) -> Steps:
    """What is left out for something wrong there: it could not mean what was meant without."""
    first, *rest = steps
    most = {"measure": 3, "finetune": 3 if isinstance((*rest, 0, 0)[1], int) else 2}
    return steps[: most.get(str(first), 2)]


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


def amendment(node: Node, schema: Mapping[str, Any]) -> str | None:
    """What to do about a value that does not fit a JSON Schema; None where nothing is known."""
    value = node.value
    parts = (schema, *schema.get("anyOf", ()))
    kinds = {part.get("type") for part in parts}
    names = [
        str(name)
        for part in parts
        for name in (
            *part.get("enum", ()),
            *part.get(OTHER_VALUES, ()),
            *([part["const"]] if "const" in part and part is not schema else ()),
        )
    ]
    if value in (None, ()):
        return "give it a value, or remove the line"
    if isinstance(value, bool | int | float) and "string" in kinds and not names:
        return "put it in quotes"
    if isinstance(value, tuple | dict):
        return None
    meant = _meant(value, kinds, schema) if isinstance(value, str) else None
    return meant or did_you_mean(node.text, names)


def _meant(text: str, kinds: set[str | None], schema: Mapping[str, Any]) -> str | None:
    """What a text may have been meant as; None where nothing is near."""
    if "pattern" in schema and text.strip():
        name = slugify(text)[: schema.get("maxLength")]
        return f"write '{name}'" if re.search(schema["pattern"], name) else None
    digits = text.replace("_", "").replace(",", "").strip()
    if kinds & {"integer", "number"} and digits.isdecimal():
        return f"write {shortened(digits)}, without quotes or separators"
    meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false"}
    plain = meant.get(text.lower(), text.lower())
    return f"write {plain}" if "boolean" in kinds and plain in {"true", "false"} else None


def fixed_by(schema: Mapping[str, Any]) -> str | None:
    """What fixes an option that has one value alone, and what has others; None for any other."""
    if "const" not in schema and schema.get("type") != "null":
        return None
    words = str(schema.get("description", "remove the line")).partition(". ")[0].removesuffix(".")
    return words[:1].lower() + words[1:]


def expectation(schema: Mapping[str, Any]) -> str:
    """What a JSON Schema of one value asks for, in words."""
    if "errorMessage" in schema or "const" in schema:
        return str(schema.get("errorMessage") or f"{schema['const']} alone")
    if "enum" in schema:
        return f"one of {', '.join(str(choice) for choice in schema['enum'])}"
    if "anyOf" in schema:
        first, *others = (part for part in schema["anyOf"] if part.get("type") != "null")
        words = [expectation(first)]
        for part in others:
            listed = part.get("type") == "array" and first in _of_each(part)
            word = str(part["const"]) if "const" in part else expectation(part)
            words.append("a list of them" if listed else word)
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


def _of_each(schema: Mapping[str, Any]) -> list[Any]:
    """What a list's schema allows of each entry."""
    items = schema.get("items", {})
    return list(items.get("anyOf", [items]))


def _number(schema: Mapping[str, Any], noun: str) -> str:
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
