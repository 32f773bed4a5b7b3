"""A folder for each example, and what must hold of every call in it."""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.command import call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.workplace import Finished

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
COMMAND = re.compile(r"^\s*::|##\[", re.MULTILINE)
WRITTEN = {"results", "reports", "gate.xml", "summary.md", "made.json"}
"""What commands may leave beside their input."""


@contextmanager
def place() -> Iterator[Path]:
    """An empty folder within an otherwise empty one."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as outer:
        folder = Path(outer) / "a" / "b"
        folder.mkdir(parents=True)
        yield folder


def write_json(path: Path, value: Any) -> None:
    """Writes the value as Python has it: with NaN, Infinity and lone surrogates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def check(folder: Path, *arguments: str) -> Finished:
    """Calls qbench: it ends with 0, 1 or 2, and harms neither terminal, runner nor other files."""
    before = {path.name for path in folder.iterdir()}
    finished = call(folder, *arguments)
    assert finished.code in {0, 1, 2}, finished.errors
    for text in (finished.output, finished.errors):
        assert not CONTROL.search(text), text
        assert not COMMAND.search(text), text
        assert "Traceback" not in text, text
    assert len(finished.errors) < 200_000
    assert finished.code != 2 or finished.errors.startswith(("qbench: ", "note: ", "Usage"))
    assert {path.name for path in folder.iterdir()} <= before | WRITTEN
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [path.name for path in folder.parent.parent.iterdir()] == [folder.parent.name]
    return finished
