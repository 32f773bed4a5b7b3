"""One value of a suite, with its place: a line of its file, or what stands in place of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.errors import Problem
from qbench.core.names import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Node:
    """One value of a YAML file, with its place."""

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    path: str
    """Dotted path from the top, such as `precisions[2].nf4`; empty for the top itself."""
    line: int
    """1-based line that the value begins on."""
    key_line: int
    """1-based line of its key; that of the value where it has none."""
    text: str = ""
    """A scalar as it is written in the file."""
    origin: str = ""
    """Where it comes from when that is no line of the file, such as `--set name=mine`."""

    @property
    def place(self) -> int | str:
        """The line of its key, or where else it comes from."""
        return self.origin or self.key_line

    @property
    def where(self) -> str:
        """That in words."""
        return self.origin or f"line {self.key_line}"

    def problem(
        self,
        file: str,
        found: str,
        expected: str | None = None,
        remedy: str | None = None,
        *,
        at_key: bool = False,
    ) -> Problem:
        """Something that is wrong with it, or with its key."""
        if self.origin:
            return Problem(self.path, found, expected, remedy, self.origin)
        line = self.key_line if at_key else self.line
        return Problem(self.path, found, expected, remedy, file, line)

    def child(self, key: str | int) -> Node | None:
        """The entry of that key or index, or None."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, tuple) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def lines(self) -> dict[str, int | str]:
        """The place of every key and entry below this value, by path."""
        children: Iterable[Node] = self.value if isinstance(self.value, tuple) else ()
        if isinstance(self.value, dict):
            children = self.value.values()
        found = {}
        for child in children:
            found[child.path] = child.place
            found.update(child.lines())
        return found

    def plain(self) -> object:
        """The value without places, as JSON has it: lists, dicts, and 3.0 as the whole number 3."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        if isinstance(self.value, float) and self.value.is_integer():
            return int(self.value)
        return self.value


def join_path(path: str, key: str) -> str:
    """The path of a key below another."""
    return f"{path}.{shortened(key)}" if path else shortened(key)
