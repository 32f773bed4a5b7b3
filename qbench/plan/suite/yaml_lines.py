"""YAML to plain values that remember their line and path, for messages that name the place.

The scalars are read by the core schema of YAML 1.2, as editors do: `on` and `yes` are text, and
`1e3` is a number. A file that is meant to hurt (aliases that multiply or hold themselves, endless
nesting) is refused, and no tag makes an object.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import yaml

from qbench.core.errors import Problem
from qbench.core.names import shortened
from qbench.plan.suite.node import Node, join_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.plan.suite.node import Scalar

MAX_NODES = 10_000
"""Values in a file once its aliases are written out."""
MAX_DEPTH = 32
"""Mappings and lists within one another."""
MAX_DIGITS = 18
"""Characters of a whole number: what a signed 64-bit number holds."""

_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "merge": re.compile(r"<<$"),
}
_REMEDIES = (
    ("'\\t'", "indent with spaces, not with tabs"),
    ("mapping values are not allowed", "check the indentation; quote text that holds `: `"),
    ("while scanning an alias", 'quote a pattern that begins with `*`, as in "*"'),
    ("undefined alias", 'quote a pattern that begins with `*`, as in "*-dq"'),
    ("another document", "keep one suite in a file: remove the line `---`"),
    ("cannot start any token", "put the text in quotes"),
    ("quoted scalar", "close the quotes"),
    ("flow", "close the bracket"),
    ("block", "check the indentation against the lines above"),
    ("simple key", "a key and its value are written `key: value`"),
)


class _CoreLoader(yaml.SafeLoader):
    """Reads plain scalars by the core schema of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own way: a class attribute to replace)


class _CoreDumper(yaml.SafeDumper):
    """Quotes each text that this schema would read as something else."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (as above)

    def ignore_aliases(self, data: object) -> bool:
        """Writes out what stands there twice."""
        return True


for _name, _pattern in _PATTERNS.items():
    # PyYAML takes None for "any first character"; its stubs do not know.
    _CoreLoader.add_implicit_resolver(_TAG + _name, _pattern, [None])
    _CoreDumper.add_implicit_resolver(_TAG + _name, _pattern, [None])


def write_yaml(value: object) -> str:
    """Plain values as YAML that `read_yaml` reads as the same: short lists in one line."""
    written: str = yaml.dump(
        value,
        Dumper=_CoreDumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=None,
    )
    return written


def read_yaml(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """Reads one YAML document.

    Returns its top value (None for a file without one, or that cannot be read) and what is wrong
    with it. Duplicate keys and the like are problems beside a value, so that the rest of the file
    can still be checked.
    """
    builder = _Builder(file)
    try:
        top = _compose(text, file)
        return (None if top is None else builder.build(top, "", 0)), builder.problems
    except _RefusedError as refused:
        return None, [*builder.problems, refused.problem]


def _compose(text: str, file: str) -> yaml.Node | None:
    """PyYAML's own tree; raises `_RefusedError` for text that is not YAML."""
    loader: _CoreLoader | None = None
    try:
        loader = _CoreLoader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        problem = _syntax_problem(error, file)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the control character U+{int(error.character):04X}"  # an int for a text
        problem = Problem("", found, "text", "remove it", file, line)
    except RecursionError:
        problem = _too_deep(file, None)
    except (ValueError, OverflowError) as error:  # PyYAML lets escapes such as "\UFFFFFFFF" through
        at = None if loader is None else int(loader.line) + 1
        problem = Problem("", f"text that is not YAML ({error})", "YAML", None, file, at)
    raise _RefusedError(problem)


class _RefusedError(Exception):
    """The file cannot be read any further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Builder:
    """Turns PyYAML's nodes into ours, aliases written out."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: yaml.Node, path: str, depth: int, key_line: int | None = None) -> Node:
        """The node with all below it; a part that cannot be used is left out with a problem."""
        line = node.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MAX_NODES:
            found = f"more than {MAX_NODES} values, aliases written out"
            raise _RefusedError(Problem(path, found, "a suite", "write fewer", self.file, line))
        if depth > MAX_DEPTH:
            raise _RefusedError(_too_deep(self.file, line))
        key_line = line if key_line is None else key_line
        kind = str(node.tag).removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return Node(self._mapping(node, path, depth), path, line, key_line)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            children = (
                self.build(child, f"{path}[{index}]", depth + 1)
                for index, child in enumerate(node.value)
            )
            return Node(tuple(children), path, line, key_line)
        if isinstance(node, yaml.ScalarNode):
            value = self._scalar(node, kind, path, line)
            return Node(value, path, line, key_line, str(node.value))
        self._refuse_tag(node, path, line)
        return Node(None, path, line, key_line)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(path, "a list or mapping as a key", "text", line, "check the brackets")
            elif key_node.tag == _TAG + "merge":
                merged.extend(_merge_sources(value_node))
            elif key_node.value in entries:
                key = key_node.value
                first = entries[key].key_line
                found = f"the key '{shortened(key)}' twice (first on line {first})"
                self._add(path, found, "each key once", line, "remove one of them")
            else:
                key = key_node.value
                entries[key] = self.build(value_node, join_path(path, key), depth + 1, line)
        for source in merged:
            line = source.start_mark.line + 1
            child = self.build(source, path, depth + 1)
            if not isinstance(child.value, dict):
                self._add(path, "`<<` with something else", "a mapping to take over", line)
                continue
            for key, value in child.value.items():
                entries.setdefault(key, value)
        return entries

    def _scalar(self, node: yaml.ScalarNode, kind: str, path: str, line: int) -> Scalar:
        text = str(node.value)
        if kind in {"str", "merge"}:
            return self._text(text, path, line)
        if kind not in _PATTERNS or not _PATTERNS[kind].match(text):
            self._refuse_tag(node, path, line)
            return None
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        return self._number(text, kind, path, line)

    def _text(self, text: str, path: str, line: int) -> str:
        odd = next((mark for mark in text if not mark.isprintable()), None)
        if odd is not None:
            found = f"the unprintable character U+{ord(odd):04X} in a text"
            self._add(path, found, "printable text in one line", line, "remove it")
        return "".join(mark for mark in text if mark.isprintable())

    def _number(self, text: str, kind: str, path: str, line: int) -> int | float:
        if kind == "int" and len(text) <= MAX_DIGITS:
            return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
        if kind == "float" and math.isfinite(number := _float(text)):
            return number
        self._add(path, f"the number {shortened(text)}", "a finite number of usual size", line)
        return 1  # a stand-in that most places accept, so that the number is reported once

    def _refuse_tag(self, node: yaml.Node, path: str, line: int) -> None:
        tag = str(node.tag).replace(_TAG, "!!")
        self._add(path, f"the tag {shortened(tag)}", "a plain value", line, "remove the tag")

    def _add(
        self, path: str, found: str, expected: str, line: int, remedy: str | None = None
    ) -> None:
        self.problems.append(Problem(path, found, expected, remedy, self.file, line))


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # `.inf` and `.nan`, which Python writes without the dot
        return math.inf


def _merge_sources(node: yaml.Node) -> Iterator[yaml.Node]:
    """What `<<` takes over: a mapping, or each of a list of them."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    else:
        yield node


def _too_deep(file: str, line: int | None) -> Problem:
    found = f"values more than {MAX_DEPTH} deep, or an alias that holds itself"
    return Problem("", found, "a suite", "check the brackets and aliases", file, line)


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    context, problem = str(error.context or ""), str(error.problem or "")
    words = problem or context
    if error.context_mark is not None and mark is not None:
        begun = error.context_mark.line + 1
        if begun != mark.line + 1 and context:
            words = f"{words}, {context} begun on line {begun}"
    place = f" at column {mark.column + 1}" if mark is not None else ""
    both = f"{context} {problem}"
    return Problem(
        "",
        f"text that is not YAML{place} ({shortened(words, 160)})",
        "YAML",
        next((remedy for sign, remedy in _REMEDIES if sign in both), None),
        file,
        None if mark is None else mark.line + 1,
    )
