"""What a person wrote, as a tree of values with their places: a file, and what is set beside it.

file → YAML → own names of its keys → settings → YAML again, or a suite
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.core.errors import Problem, SuiteError
from qbench.core.names import did_you_mean
from qbench.plan.suite.aliases import by_own_names
from qbench.plan.suite.file import SuiteFile
from qbench.plan.suite.settings import with_settings
from qbench.plan.suite.yaml_lines import read_yaml, write_yaml
from qbench.sources.bundled import bundled_suites

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.plan.suite.node import Node
    from qbench.plan.suite.settings import Setting

LARGEST_FILE_BYTES = 1_000_000
"""A suite is written by hand; a file beyond this is something else."""
_START = "`qbench init` writes a suite to start from"
OF_FILES = "a suite's YAML file, or the name of one of `qbench list suites`"
"""What a message expects where a suite's file is asked for."""


@dataclass(frozen=True)
class Written:
    """What stands in a suite's file, or in its place."""

    file: str
    """The file as it was given, or whatever else messages name."""
    base: Path
    """Absolute folder where relative paths in it start."""
    top: Node | None
    """All of it, each key by its own name; None where it cannot be read, or is empty."""
    problems: tuple[Problem, ...] = ()
    """What is wrong with it as YAML, or with what was set."""
    blank: bool = False
    """Whether there is no text at all, not even a comment."""

    def set(self, settings: Sequence[Setting]) -> Written:
        """The same with some of its values replaced."""
        if not settings or self.top is None:
            return self
        top, wrong = with_settings(self.top, settings)
        top, problems = by_own_names(top, [*self.problems, *wrong], self.file)
        return replace(self, top=top, problems=tuple(problems))

    def text(self, name: str) -> str:
        """It as YAML: saved as a file below its base, it is the same suite, of that name."""
        plain = {} if self.top is None else self.top.plain()
        stated = {"name": name} | (plain if isinstance(plain, dict) else {})
        return write_yaml({key: stated[key] for key in SuiteFile.model_fields if key in stated})


def read_text(text: str, file: str, base: Path) -> Written:
    """What the text of a suite says; `file` names it in messages."""
    top, problems = read_yaml(text, file)
    if top is not None:
        top, problems = by_own_names(top, problems, file)
    return Written(file, base, top, tuple(problems), blank=not text.strip())


def shipped(name: Path) -> Path | None:
    """The suite that ships with qbench under that name; None where a file or folder has it."""
    file = bundled_suites().get(str(name))
    return None if file is None or name.exists() else file


def read_file(path: Path, expected: str = OF_FILES, others: Sequence[str] = ()) -> Written:
    """What a suite's file says, or one that ships with qbench, by its name.

    `expected` is what a message asks for where it is no file, `others` what may be meant as well.
    Raises `SuiteError` when it cannot be read.
    """
    path = shipped(path) or path
    others = [*bundled_suites(), *others]
    return read_text(text_of(path, expected, others), str(path), path.resolve().parent)


def text_of(
    path: Path, expected: str, others: Sequence[str] = (), start: str | None = _START
) -> str:
    """The text of a YAML file; raises `SuiteError` when it cannot be read.

    `start` is the remedy where there is none, and none of a name near.
    """
    remedy = None
    try:
        if path.is_dir():
            remedy = _suites_in(path)
            found = "a folder"
        elif not path.exists():
            found = "no such file"
            near = [str(path.parent / name) for name in _yaml_names(path.parent)]
            remedy = (
                did_you_mean(str(path), [*near, *others])
                or did_you_mean(path.stem, others)
                or start
            )
        elif not path.is_file():
            found = "something that is no regular file"
        elif path.stat().st_size > LARGEST_FILE_BYTES:
            found = f"{path.stat().st_size} bytes"
            expected = f"{expected.partition(', or ')[0]} of at most {LARGEST_FILE_BYTES} bytes"
        else:
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"a byte that is not UTF-8 (0x{error.object[error.start]:02x})"
        problem = Problem("", found, "UTF-8 text", "save the file as UTF-8", str(path), line)
        raise SuiteError([problem]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        found = f"a file that cannot be read ({reason})"
        remedy = "check its permissions and the path"
    raise SuiteError([Problem("", found, expected, remedy, str(path))])


def _yaml_names(folder: Path) -> list[str]:
    """Names of the YAML files of a folder; none if it cannot be read."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix in {".yaml", ".yml"})


def _suites_in(folder: Path) -> str | None:
    names = _yaml_names(folder)
    return f"name one of its files: {', '.join(names)}" if names else None
