"""Values that replace those of a suite: `--set measure.latency.repeats=1`.

A setting is as if the suite's file had its value there. What is wrong with it is told in the same
words, and its place is the setting as it was given, in place of a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.core.errors import Problem, SuiteError, UsageError
from qbench.core.names import shortened
from qbench.measures import asked_for
from qbench.plan.suite.aliases import WHOLE, Kind
from qbench.plan.suite.file import MeasureEntry, MethodEntry, ModelEntry, PrecisionEntry
from qbench.plan.suite.node import Node, join_path
from qbench.plan.suite.yaml_lines import MAX_DEPTH, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Steps = tuple[str, ...]

_ASSIGNMENT = re.compile(r"\s*([^=\s][^=]*?)\s*=(.*)", re.DOTALL)
_STEP = re.compile(r"[.]|\[(\d+)\]")
NO_KEYS = Node({}, "", 1, 1)
OF_SUITE = "a key of the suite, such as measure.latency.repeats=1 or models.0.name=mine"
_GIVEN = "--set "
"""Begins the origin of a value that was given as a setting."""
_SHORT = {ModelEntry: "source", MethodEntry: "method"}
"""The key of an entry that its text alone stands for."""


@dataclass(frozen=True)
class Setting:
    """A value for one place of a suite."""

    steps: tuple[str, ...]
    """Keys and indices that lead there."""
    value: Node
    """Its `origin`, and that of all below it, is the setting as it was given."""

    @classmethod
    def of(cls, steps: Steps, text: str, origin: str) -> Setting:
        """The value of a YAML text; raises `SuiteError` with what is wrong with it."""
        value, problems = read_yaml(text, origin)
        if problems:
            raise SuiteError([replace(one, line=None) for one in problems])
        return cls(steps, with_origin(value or replace(NO_KEYS, value=None), origin))


def read_settings(assignments: Iterable[str], known: str = OF_SUITE) -> tuple[Setting, ...]:
    """The settings of `--set KEY=VALUE`, VALUE in YAML; `known` says what KEY can be.

    Raises `UsageError` for one that is no assignment and for a key that is set twice, and
    `SuiteError` for a value that is no YAML.
    """
    made: dict[Steps, Setting] = {}
    for text in assignments:
        found = _ASSIGNMENT.fullmatch(text)
        steps = _steps(found[1]) if found else ()
        if found is None or not all(steps) or len(steps) > MAX_DEPTH:
            found_text = shortened(text)
            raise UsageError(
                f"--set: found {found_text!r}; expected KEY=VALUE, where KEY is {known}"
            )
        if steps in made:
            raise UsageError(
                f"--set: found the key '{shortened(found[1])}' twice; expected each once; remove"
                " one of them"
            )
        made[steps] = Setting.of(steps, found[2], f"{_GIVEN}{shortened(text, 80)}")
    return tuple(made.values())


def _steps(key: str) -> tuple[str, ...]:
    """`models[0].name` and `models.0.name` as steps."""
    return tuple(_STEP.sub(lambda mark: f".{mark[1]}" if mark[1] else ".", key).split("."))


def with_origin(node: Node, origin: str) -> Node:
    """The node, all of it from there."""
    value = node.value
    if isinstance(value, tuple):
        value = tuple(with_origin(one, origin) for one in value)
    elif isinstance(value, dict):
        value = {key: with_origin(one, origin) for key, one in value.items()}
    return replace(node, value=value, origin=origin)


def with_settings(
    top: Node, settings: Sequence[Setting], kind: Kind = WHOLE
) -> tuple[Node, list[Problem]]:
    """The tree with the values in their places, and what of them has no place there.

    The paths of what is new are not those of the tree yet.
    """
    problems = []
    for setting in settings:
        try:
            top = _placed(top, setting.steps, setting, kind, "")
        except _NoPlaceError as error:
            problems.append(error.problem)
    return top, problems


class _NoPlaceError(Exception):
    def __init__(self, setting: Setting, path: str, found: str, expected: str) -> None:
        super().__init__(found)
        self.problem = Problem(path, found, expected, file=setting.value.origin)


def _placed(node: Node | None, steps: Steps, setting: Setting, kind: Kind, path: str) -> Node:
    """The node, in which the value stands where the steps lead."""
    if not steps:
        if node is not None and node.value is not None and node.origin.startswith(_GIVEN):
            found = f"what '{node.origin}' sets too"
            raise _NoPlaceError(setting, path, found, "each key once; remove one of them")
        return setting.value
    value = None if node is None else node.value
    is_index = steps[0].isdecimal() and not kind.by_own_keys
    # A key of measurements that are listed by their names is an option of one of them.
    if node and isinstance(value, tuple) and (is_index or kind.model is not MeasureEntry):
        return _in_list(node, value, steps, setting, kind, path)
    if is_index and not (isinstance(value, dict) and steps[0] in value):
        if node is None or steps[0] != "0":
            found = "no list there" if node is None else "one entry there"
            raise _NoPlaceError(setting, path, found, "a list with that many entries")
        return _placed(node, steps[1:], setting, kind, path)  # alone in place of a list
    holder = _expanded(node, kind, setting)
    if not isinstance(holder.value, dict):
        found = f"'{shortened(holder.text)}', which has no '{shortened(steps[0])}'"
        raise _NoPlaceError(setting, path, found, "a mapping to set a key of")
    key, rest = _key(holder.value, steps, kind)
    child = _placed(
        holder.value.get(key), rest, setting, kind.below(key, holder.value), join_path(path, key)
    )
    return replace(holder, value=holder.value | {key: child})


def _in_list(
    node: Node, entries: tuple[Node, ...], steps: Steps, setting: Setting, kind: Kind, path: str
) -> Node:
    places = {str(at): at for at in range(len(entries))}
    if steps[0] not in places:
        found = f"'{shortened(steps[0])}' for an entry of a list of {len(entries)}"
        last = len(entries) - 1
        raise _NoPlaceError(setting, path, found, f"a number from 0 to {last}" if last else "0")
    at = places[steps[0]]
    made = _placed(entries[at], steps[1:], setting, kind, f"{path}[{at}]")
    return replace(node, value=(*entries[:at], made, *entries[at + 1 :]))


def _key(entries: dict[str, Node], steps: Steps, kind: Kind) -> tuple[str, Steps]:
    """The key that the first steps mean: one that is there may have dots in it."""
    for count in range(len(steps), 0, -1):
        key = ".".join(steps[:count])
        if key in entries:
            return key, steps[count:]
    if kind.by_own_keys and kind.model is not None:
        # A name such as `memory.static`, then what the suite says of it.
        ends = (at for at, step in enumerate(steps) if at and step in kind.model.model_fields)
        end = next(ends, len(steps))
        key = ".".join(steps[:end])
        return kind.names({key: NO_KEYS}).get(key, key), steps[end:]
    names = kind.names({steps[0]: NO_KEYS} | entries)
    return names.get(steps[0], steps[0]), steps[1:]


def _expanded(node: Node | None, kind: Kind, setting: Setting) -> Node:
    """A mapping in place of its short form; all measurements where none are named."""
    if node is None or node.value is None:
        every = asked_for() if kind.model is MeasureEntry and node is None else ()
        nothing = replace(setting.value, value=None, text="")
        return replace(nothing, value=dict.fromkeys(every, nothing))
    names = node.value if isinstance(node.value, tuple) else (node,)
    if kind.model in {MeasureEntry, PrecisionEntry}:
        texts = [one for one in names if isinstance(one.value, str)]
        if len(texts) == len(names):
            by_name = {str(one.value): replace(one, value=None, text="") for one in texts}
            return replace(node, value=by_name, text="")
    if isinstance(node.value, str) and kind.model in _SHORT:
        return replace(node, value={_SHORT[kind.model]: node}, text="")
    return node
