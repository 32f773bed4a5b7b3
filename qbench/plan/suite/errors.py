"""From pydantic's errors about a suite's file to problems: each with its place, and in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qbench.core.aliases import ALIASES, NEAR, other_names
from qbench.core.reading import InvalidValueError
from qbench.finetune import methods
from qbench.measures import asked_for
from qbench.plan.suite.file import FineTuneEntry
from qbench.plan.suite.options import owners
from qbench.plan.suite.problems import amendment, expectation, fixed_by
from qbench.precisions import EXAMPLE, precisions
from qbench.precisions.names import nearest_in_kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError

    from qbench.plan.suite.node import Node
    from qbench.plan.suite.options import HasOptions
    from qbench.plan.suite.problems import Problems, Steps

Schema = dict[str, Any]

CHOICES = "choices"
"""The field of options that stand beside other keys in the file."""
_CALLED = {
    "": "key",
    "models": "key of a model",
    "finetune": "key of finetune",
    "measurements": "measurement",
    "include": "key of a selector",
    "exclude": "key of a selector",
    "recommend": "key of recommend",
    "price": "key of price",
    "cluster": "key of cluster",
    "slurm": "key of slurm",
    "ray": "key of ray",
    "claims": "key of a claim",
    "source": "key of a source",
    "checks": "key of a check",
    "of": "key of cells",
    "against": "key of cells",
    "expect": "key of a range",
}
"""What the keys of a mapping are called, by the key that it stands under."""


def note_errors(
    problems: Problems, error: ValidationError, schema: Schema, owner: str = ""
) -> list[Steps]:
    """Notes all that is wrong; returns where, in keys and indices of the file.

    `schema` is that of the whole: of the file, or of the options of `owner`.
    """
    places = []
    every = error.errors(include_url=False)
    for detail in sorted(every, key=lambda one: one["type"] != "extra_forbidden"):
        place = _Place(problems.top, schema, owner)
        place.note(problems, detail["type"], detail["loc"], detail.get("ctx", {}))
        places.append(place.path)
    return places


class _Place:
    """Where an error is: in the file, and in the JSON Schema."""

    def __init__(self, node: Node, schema: Schema, owner: str) -> None:
        self.node = node
        self.owner = owner
        """What the value belongs to: the last key on the way, or the name of an entry's schema."""
        self.path: Steps = ()
        self._schema = schema
        self._named: dict[str, Schema] = schema.get("$defs", {})

    def note(self, problems: Problems, kind: str, steps: Steps, context: dict[str, Any]) -> None:
        """Notes an error of that kind, at the innermost value that it is about."""
        if kind == "extra_forbidden" and self._follow(steps[:-1]):
            self._note_unknown_key(problems, str(steps[-1]))
        elif kind == "missing" and self._follow(steps[:-1]):
            self._note_missing(problems, str(steps[-1]))
        elif kind == "union_tag_invalid" and self._follow(steps):
            self._note_unknown_entry(problems, context["tag"])
        else:
            self._follow(steps)
            self._note_unfit(problems, context.get("error"))

    def _follow(self, steps: Steps) -> bool:
        """Goes where the steps of an error lead; false if the file or the schema ends before.

        Where the file says the same in a short form, the value stays as it is meanwhile.
        """
        for step in steps:
            forms = list(self._forms())
            child = self.node.child(step)
            if step in self._named and any(name == step for name, _ in forms):  # of a union
                self._schema, self.owner = self._named[str(step)], str(step)
            elif isinstance(step, int) and not isinstance(self.node.value, tuple):
                continue  # what stands alone in place of a list
            elif step != CHOICES:
                parts = [part for _, form in forms if (part := _part(form, step)) is not None]
                if not parts and child is None:
                    return False
                self._schema = parts[0] if parts else {}
                self.owner = step if isinstance(step, str) else self.owner
                self._enter(child, step)
        return True

    def _enter(self, child: Node | None, step: str | int) -> None:
        if child is not None:
            self.node, self.path = child, (*self.path, step)

    def _forms(self) -> Iterator[tuple[str, Schema]]:
        return _forms(self._schema, self._named)

    def _note_unfit(self, problems: Problems, reason: Exception | None) -> None:
        """A value that does not fit; `reason` is a validator's own."""
        value, schema = self.node.value, self._schema
        single = [form for _, form in self._forms() if form.get("type") != "array"]
        told = {"errorMessage", "const", "title"}
        if len(single) == 1 and (told & single[0].keys() or single[0].get("type") == "null"):
            schema = single[0] | {key: schema[key] for key in ("description",) if key in schema}
        if reason is None and isinstance(value, str) and {"enum", "title"} <= schema.keys():
            problems.add_unknown(self.node, schema["title"], value, schema["enum"])
            return
        expected = expectation(schema) if reason is None else str(reason)
        found = remedy = None
        if isinstance(reason, InvalidValueError):
            found, remedy, schema = reason.found, reason.remedy, {}
        remedy = remedy or fixed_by(schema) or amendment(self.node, schema)
        problems.add(self.node, expected, found=found, remedy=remedy)

    def _note_missing(self, problems: Problems, key: str) -> None:
        """A key that must be there."""
        forms = self._forms()
        parts = [part for _, form in forms if (part := _part(form, key))]
        example = next((one for part in parts for one in part.get("examples", ())), None)
        flow = json.dumps(example).replace('"', "")
        remedy = "add it" if example is None else f"add `{key}: {flow}`"
        found = f"no {key}" if self.path else f"a suite without {key}"
        problems.add(self.node, f"the key `{key}`", found=found, remedy=remedy)

    def _note_unknown_key(self, problems: Problems, key: str) -> None:
        """A key that is none of those that there are."""
        forms = self._forms()
        fields = [field for _, form in forms for field in form.get("properties", {}).items()]
        known = [name for name, _ in fields]
        other = {also: name for name, field in fields for also in field.get(ALIASES, ())}
        near = {also: words for _, field in fields for also, words in field.get(NEAR, {}).items()}
        kind, name = "", self.owner
        if self.owner.startswith(("precision-", "method-")):
            kind, _, name = self.owner.partition("-")
        of_rule = self.path[:1] == ("gate",)
        called = "key of a rule" if of_rule else _CALLED.get(name, f"option of {name}")
        if kind == "precision":
            called, known, other = kind, list(precisions()), {}
        hint = near.get(key) or self._hint(key, kind, name)
        self._enter(self.node.child(key), key)
        problems.add_unknown(self.node, called, key, known, hint, other)

    def _hint(self, key: str, kind: str, name: str) -> str | None:
        """Where the key belongs, if it is an option of something."""
        if kind == "precision":
            own = owners(key, {name: precisions()[name]})
            hint = f"'{key}' is an option of {name}: indent it further"
            return hint if own else nearest_in_kind(key)
        if self.path[:1] == ("gate",) or name in {*_CALLED} - {"", "measurements"}:
            return None
        if name == "" and key in asked_for():
            return f"'{key}' is a measurement: put it under `measure`"
        if kind == "method" and key in {*FineTuneEntry.model_fields, *other_names(FineTuneEntry)}:
            return f"'{key}' is a key of finetune: put it there, beside `methods`"
        table: Mapping[str, HasOptions] = precisions()
        if kind == "method":
            table = methods()
        elif name == "" or self.path[:1] == ("measure",):
            table = asked_for()
        end = ": put it there, under `measure`" if name == "" else ""
        homes = owners(key, table)
        return f"'{key}' is an option of {', '.join(homes)}{end}" if homes else None

    def _note_unknown_entry(self, problems: Problems, tag: str) -> None:
        """An entry that is called by no name of its table."""
        kind, _, name = tag.partition("-")
        tags = [each for each, _ in self._forms()]
        known = [each.partition("-")[2] for each in tags if each.startswith(f"{kind}-")]
        hint = nearest_in_kind(name) if kind == "precision" else None
        if (kind, name.lower()) == ("method", "qlora"):
            hint = f"QLoRA is LoRA on a quantized base: {{method: lora, precision: {EXAMPLE}}}"
        step = name if self.node.child(name) else kind
        self._enter(self.node.child(step), step)
        problems.add_unknown(self.node, kind, name, known, hint)


def _forms(
    schema: Schema, named: dict[str, Schema], name: str = ""
) -> Iterator[tuple[str, Schema]]:
    """The kinds of value that a schema allows, each with the name it is defined under."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from _forms(named[name], named, name)
    elif parts := schema.get("anyOf") or schema.get("oneOf"):
        for part in parts:
            yield from _forms(part, named, name)
    else:
        yield name, schema


def _part(schema: Schema, step: str | int) -> Schema | None:
    """The schema of an entry of a list, or under a key of a mapping; None if it has none."""
    if isinstance(step, int):
        part = schema.get("items")
    else:
        part = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
    return part if isinstance(part, dict) else None
