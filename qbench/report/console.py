"""What is printed: no line of it can be taken for a command by the machine that runs a workflow.

GitHub's runner obeys lines that begin with `::`, wherever their words come from, and where a table
is wrapped any word can come to stand first in its line. Only `workflow_commands` may give commands.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, TextIO, cast

from qbench.core.untrusted import visible

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

_COMMAND = re.compile(r"^(\s*:)(?=:)|(#)(?=#\[|#vso\[)", re.MULTILINE)


def harmless(text: str) -> str:
    """The text with a space within what would begin a command: `::` in front of a line, `##[`."""
    return _COMMAND.sub(lambda found: f"{found[0]} ", text)


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints harmless lines; a width and colours as the terminal has them.

    Where no one reads any more, printing raises `BrokenPipeError`, as it does without rich.
    """
    from rich.console import Console

    class Harmless(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Harmless(file=cast("TextIO", _HarmlessStream(stderr=stderr)), stderr=stderr)


def tell(text: str, *, stderr: bool = False) -> None:
    """Prints a text, such as a page, as it is, but for lines that would be commands."""
    _HarmlessStream(stderr=stderr).write(text)


def tell_bytes(found: bytes) -> None:
    """Hands a file on as it is, such as an archive that a plug-in makes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(found)


def say(line: str, *, stderr: bool = False) -> None:
    """Prints a line of qbench's own, such as where a file lies, whatever the file is called."""
    tell(f"{visible(line)}\n", stderr=stderr)


def say_where(path: Path) -> None:
    """Prints where a report lies; a terminal that can opens it from there.

    A page for browsers is named as they take it, for terminals that make links of addresses alone.
    """
    from rich.style import Style
    from rich.text import Text

    address = path.absolute().as_uri()
    shown = address if path.suffix == ".html" else visible(str(path))
    line = Text.assemble("report: ", (shown, Style(link=address)))
    make_console().print(line, soft_wrap=True)


class _HarmlessStream:
    """Standard output or error as it is at each moment; each write begins a line, or none."""

    def __init__(self, *, stderr: bool) -> None:
        self._stderr = stderr

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self._stderr else sys.stdout

    def __getattr__(self, name: str) -> object:
        """Everything but writing is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the harmless text."""
        return self._stream.write(harmless(text))
