"""Makes the bundled tasks' items: `python -m tools.bundled.build_tasks`.

Two tasks from the held-out text, as JSON lines beside their YAML in `qbench/bundled/tasks`:

stdlib-choice      a passage and four lines of code; which one comes next?
stdlib-completion  a passage that breaks off before a name; which name is it?

The items follow from the text and the rules below alone: no item was chosen or left out by hand,
or by what a model makes of it. The same text gives the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import keyword
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.sources.bundled import BUNDLED_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

ITEMS = 400
"""Items a task, spread evenly over all places that the rules allow."""

CHOICE_CONTEXT_CHARACTERS = 240
"""Most characters of whole lines before the line in question: about 75 tokens."""
CHOICE_CONTEXT_LINES = 4
"""Fewest lines before it."""
CHOICES = 4
LINE_CHARACTERS = range(12, 73)
"""Length of a line in question, its indentation left out."""
FAR_LINES = 60
"""Wrong lines come from at least this far away: from another function, mostly another module."""

COMPLETION_CONTEXT_CHARACTERS = 640
"""Most characters of whole lines before the line that breaks off: about 200 tokens."""
COMPLETION_CONTEXT_LINES = 6
NAME_CHARACTERS = range(4, 13)

_NAME = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z][A-Za-z0-9_]*")
_BEFORE_NAME = re.compile(r"[^ \t] ?\Z")
"""What a name may follow: a sign or a word, with at most one space, so that tokens do not merge."""
_NO_QUESTION = {*keyword.kwlist, "self"}
"""Names that the grammar or the habit of the language gives away."""

Row = dict[str, Any]


def choice_items(text: str, count: int = ITEMS) -> list[Row]:
    """Items of `stdlib-choice`: line number, context, choices and the place of the right one.

    The wrong lines have the same indentation, nearly the same length, and do not stand in the
    context.
    """
    lines = text.split("\n")
    code = [number for number in _code_lines(lines) if _is_question(lines[number])]
    rows: list[Row] = []
    for number in code:
        line = lines[number]
        context = _context(lines, number, CHOICE_CONTEXT_CHARACTERS)
        # A blank line between the two would have to be told from the choices' own white space.
        if context.count("\n") + 1 < CHOICE_CONTEXT_LINES or context != context.rstrip():
            continue
        wrong = _wrong_lines(lines, number, context, code)
        if line in context.split("\n") or len(wrong) < CHOICES - 1:
            continue
        answer = _draw(f"{number}:{line}") % CHOICES
        choices = [*wrong[:answer], line, *wrong[answer:]]
        rows.append({"line": number + 1, "context": context, "choices": choices, "answer": answer})
    return _spread(rows, count)


def completion_items(text: str, count: int = ITEMS) -> list[Row]:
    """Items of `stdlib-completion`: line number, a context that ends before a name, and the name.

    The name stands in the context already, but not on the same line: it can be found by whoever
    understood what the code is about. At most one item a line, the last name that fits.
    """
    lines = text.split("\n")
    rows: list[Row] = []
    for number in _code_lines(lines):
        before = _context(lines, number, COMPLETION_CONTEXT_CHARACTERS)
        if before.count("\n") + 1 < COMPLETION_CONTEXT_LINES:
            continue
        known = set(_NAME.findall(before))
        for match in reversed(list(_NAME.finditer(lines[number]))):
            start_of_line = lines[number][: match.start()]
            if match[0] in known and _is_name_in_question(match[0], start_of_line):
                context = f"{before}\n{start_of_line}".rstrip(" ")
                rows.append({"line": number + 1, "context": context, "name": match[0]})
                break
    return _spread(rows, count)


def _code_lines(lines: list[str]) -> list[int]:
    """Numbers of the lines that are neither blank, comments, nor part of a docstring."""
    numbers: list[int] = []
    within = False
    for number, line in enumerate(lines):
        marks = line.count('"""')
        if not within and not marks and line.strip() and "#" not in line:
            numbers.append(number)
        within ^= marks % 2 == 1
    return numbers


def _is_question(line: str) -> bool:
    return len(line.strip()) in LINE_CHARACTERS and line == line.rstrip()


def _is_name_in_question(name: str, start_of_line: str) -> bool:
    """Whether a name can be asked for after what stands before it on its line."""
    return (
        len(name) in NAME_CHARACTERS
        and name not in _NO_QUESTION
        and name not in _NAME.findall(start_of_line)
        and _BEFORE_NAME.search(start_of_line) is not None
        # Within quotes it would be a word, not a name.
        and all(start_of_line.count(quote) % 2 == 0 for quote in "'\"")
    )


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _context(lines: list[str], number: int, most_characters: int) -> str:
    """As many whole lines before this one as fit, without blank ones at the start."""
    first, length = number, -1
    while first > 0 and length + len(lines[first - 1]) + 1 <= most_characters:
        first -= 1
        length += len(lines[first]) + 1
    return "\n".join(lines[first:number]).lstrip("\n")


def _wrong_lines(lines: list[str], number: int, context: str, code: list[int]) -> list[str]:
    """Lines from far away that look like the right one, drawn by hash; fewer where there are none.

    A length within a fifth of the right line's, as the likelihood of a line falls with its length.
    """
    right = lines[number]
    taken = {right, *context.split("\n")}
    allowance = max(2, len(right.strip()) // 5)
    near = [
        other
        for other in code
        if abs(other - number) > FAR_LINES
        and _indentation(lines[other]) == _indentation(right)
        and abs(len(lines[other]) - len(right)) <= allowance
    ]
    wrong: list[str] = []
    for other in sorted(near, key=lambda other: _draw(f"{number}:{other}:{right}")):
        if lines[other] not in taken and len(wrong) < CHOICES - 1:
            taken.add(lines[other])
            wrong.append(lines[other])
    return wrong


def _draw(words: str) -> int:
    """A number that follows from the words and is spread like a random one."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")


def _spread(rows: list[Row], count: int) -> list[Row]:
    """`count` of the rows at equal distances; all if there are fewer."""
    if len(rows) <= count:
        return rows
    return [rows[position * len(rows) // count] for position in range(count)]


def write_tasks(text: Path, folder: Path) -> dict[str, int]:
    """Writes both files of items; the number of items by task."""
    source = text.read_text(encoding="utf-8")
    written = {
        "stdlib-choice": choice_items(source),
        "stdlib-completion": completion_items(source),
    }
    for name, rows in written.items():
        # ASCII escapes keep any character of the text on its line.
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return {name: len(rows) for name, rows in written.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the items where the package keeps them, or into another folder."""
    here = BUNDLED_FOLDER
    parser = argparse.ArgumentParser(
        prog="python -m tools.bundled.build_tasks", description=main.__doc__
    )
    parser.add_argument("--out", type=Path, default=here / "tasks", help="folder to write into")
    chosen = parser.parse_args(arguments)
    write_tasks(here / "stdlib-heldout" / "stdlib-heldout.txt", chosen.out)


if __name__ == "__main__":
    main()
