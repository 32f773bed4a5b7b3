"""A suite's file by qbench's own names: other names of its keys become these, in one place.

So do other names of precisions, which are keys or stand alone. Whatever comes after (errors, lines,
plan, keys of records) knows the one name of each alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_origin

from qbench.compare.gate.rules import RuleEntry
from qbench.core.aliases import other_names
from qbench.core.spec import Frozen
from qbench.finetune import methods
from qbench.measures import asked_for
from qbench.measures.field_names import metric_called
from qbench.plan.suite.file import MeasureEntry, MethodEntry, PrecisionEntry, SuiteFile
from qbench.plan.suite.node import Node, join_path
from qbench.precisions import precisions
from qbench.precisions.names import own_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.errors import Problem
    from qbench.plan.suite.options import HasOptions


@dataclass(frozen=True)
class Kind:
    """What a mapping of the file is, or each mapping of a list."""

    model: type[Frozen] | None
    """The class that has its keys; None where nothing is known of it."""
    by_own_keys: bool = False
    """Whether the keys are of the person's own, and the class is that of each value."""

    def names(self, entries: Mapping[str, Node]) -> Mapping[str, str]:
        """The keys that it may have by their other names; `entries` are those that it has."""
        if self.by_own_keys:
            return _metrics(entries) if self.model is RuleEntry else {}
        if self.model is PrecisionEntry:
            own = {name: own_name(name) for name in entries if name != "name"}
            return {name: one for name, one in own.items() if one not in {None, name}}
        keys = _options(entries) if self.model is MethodEntry else self.model
        return {} if keys is None else other_names(keys)

    def below(self, key: str, entries: Mapping[str, Node]) -> Kind:
        """What stands under one of its keys."""
        if self.by_own_keys:
            return Kind(self.model)
        if self.model is PrecisionEntry:
            return _of_table(key, precisions())
        if self.model is MeasureEntry:
            return _of_table(key, asked_for())
        if self.model is MethodEntry and key not in MethodEntry.model_fields:
            return _of_field(_options(entries), key)
        return _of_field(self.model, key)


_RATE = re.compile(r"(pp|tg)(\d+|n)", re.IGNORECASE)
"""What llama-bench gives in tokens a second, of which less is worse; the metric is a time."""
NOTHING = Kind(None)
WHOLE = Kind(SuiteFile)


def by_own_names(
    top: Node, problems: Sequence[Problem], file: str, kind: Kind = WHOLE
) -> tuple[Node, list[Problem]]:
    """What a file says, each key by its own name; with the problems, which are told by these too.

    A key that stands there by two of its names is one problem more.
    """
    renaming = _Renaming(file)
    made = renaming.of(top, "", kind)
    moved = [replace(one, place=renaming.places.get(one.place, one.place)) for one in problems]
    return made, [*moved, *renaming.problems]


class _Renaming:
    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[str, str] = {}
        """Paths of the file that are others now."""
        self.problems: list[Problem] = []

    def of(self, node: Node, path: str, kind: Kind) -> Node:
        """The node at its new path, with all below it."""
        if node.path != path:
            self.places[node.path] = path
        value = node.value
        if isinstance(value, tuple):
            value = tuple(self.of(one, f"{path}[{at}]", kind) for at, one in enumerate(value))
        elif isinstance(value, dict):
            value = self._entries(value, path, kind)
        elif isinstance(value, str) and kind.model is PrecisionEntry:
            value = own_name(value) or value
        return replace(node, value=value, path=path)

    def _entries(self, entries: dict[str, Node], path: str, kind: Kind) -> dict[str, Node]:
        own = kind.names(entries)
        first = {key: key for key in entries if key not in own}
        made = {}
        for key, child in entries.items():
            name = own.get(key, key)
            before = first.setdefault(name, key)
            if before != key:
                again = replace(child, path=join_path(path, key))
                self._note_twice(again, key, name, before, entries[before].where)
                continue
            made[name] = self.of(child, join_path(path, name), kind.below(name, entries))
        return made

    def _note_twice(self, node: Node, key: str, name: str, before: str, first: str) -> None:
        found = f"'{key}' beside '{before}' ({first}), two names of one key"
        problem = node.problem(self.file, found, "one of them", f"keep `{name}`", at_key=True)
        self.problems.append(problem)


def _metrics(names: Iterable[str]) -> dict[str, str]:
    """Those that are what other tools call a metric, with the metric's name."""
    meant = {name: metric_called(name) for name in names if not _RATE.fullmatch(name)}
    return {name: metric for name, metric in meant.items() if metric is not None}


def _options(entries: Mapping[str, Node]) -> type[Frozen] | None:
    """The options of a method's entry."""
    named = entries.get("method")
    found = methods().get(str(named.value)) if named else None
    return None if found is None else found.options


def _of_table(name: str, table: Mapping[str, HasOptions]) -> Kind:
    return Kind(table[name].options) if name in table else NOTHING


def _of_field(model: type[Frozen] | None, key: str) -> Kind:
    fields = model.model_fields.items() if model else ()
    for name, field in fields:
        if key == (field.alias or name):
            return _within(field.annotation)
    return NOTHING


def _within(annotation: Any) -> Kind:
    """The first class of keys that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return Kind(annotation)
    found = (_within(part) for part in get_args(annotation))
    kind = next((one for one in found if one.model is not None), NOTHING)
    return replace(kind, by_own_keys=True) if get_origin(annotation) is dict else kind
