"""Makes the bundled instruction data: `python -m tools.bundled.build_instruct`.

Functions of the Python standard library that have a docstring, as JSON lines of three columns:

instruction  the docstring
input        the function's head: decorators and signature
output       the whole function without its docstring

The rows follow from the library's source and the rules below alone: none was chosen by hand. The
same library gives the same file. None is of a held-out module, or has text that stands in one.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.sources.bundled import BUNDLED_FOLDER
from qbench.sources.data.recipes import render
from tools.bundled.corpus import read_corpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from qbench.sources.data.recipes import RecipeName
    from tools.bundled.corpus import Corpus

ROWS = 2400
"""Spread evenly over all functions that the rules allow."""
MOST_TOKENS = 256
"""Of prompt and completion with `<s>` and `</s>`, by the bundled tokenizer, in either recipe."""
FEWEST_WORDS = 4
"""Of a docstring: less names a thing, and says nothing of it."""
RECIPES: tuple[RecipeName, ...] = ("instruction", "reverse-instruction")
_TEST_FOLDERS = {"test", "tests", "idle_test"}


@dataclass(frozen=True)
class Function:
    """One function of the library."""

    docstring: str
    head: str
    code: str

    @property
    def row(self) -> dict[str, str]:
        """As it stands in the file."""
        return {"instruction": self.docstring, "input": self.head, "output": self.code}


def instruct_rows(corpus: Corpus, tokenizer: Tokenizer, count: int = ROWS) -> list[dict[str, str]]:
    """Rows of the corpus's training part, in the order of its paths and lines.

    Of functions with the same docstring or the same code the first one counts.
    """
    held_out = "\n".join(_plain(text) for text in corpus.held_out.values())
    seen: set[str] = set()
    rows: list[dict[str, str]] = []
    for path, text in corpus.train.items():
        if _TEST_FOLDERS & set(Path(path).parts):
            continue
        for function in functions_of(text):
            texts = {function.docstring, function.code}
            if seen & texts or len(function.docstring.split()) < FEWEST_WORDS:
                continue
            seen |= texts
            if _fits(function.row, tokenizer) and not any(_plain(one) in held_out for one in texts):
                rows.append(function.row)
    if len(rows) <= count:
        return rows
    return [rows[position * len(rows) // count] for position in range(count)]


def functions_of(text: str) -> Iterator[Function]:
    """All functions with a docstring and something behind it, in the text's order."""
    try:
        with warnings.catch_warnings():
            # Some of the library's own files hold escapes that Python warns of.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError:
        return  # a file that is wrong on purpose
    lines = text.split("\n")
    found = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for node in sorted(found, key=lambda node: node.lineno):
        docstring = ast.get_docstring(node, clean=False)
        if docstring is None or len(node.body) < 2:
            continue
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        first = node.body[0]
        head = lines[start : first.lineno - 1]
        rest = lines[first.end_lineno : node.end_lineno]
        # Without a line of its own the docstring cannot be taken out by lines.
        if not head or not lines[first.lineno - 1].lstrip().startswith(('"', "'", "r", "R")):
            continue
        whole = textwrap.dedent("\n".join([*head, *rest]))
        # Text within quotes that begins at the margin keeps the rest from moving there.
        if whole.startswith(" "):
            continue
        yield Function(
            docstring=inspect.cleandoc(docstring).strip(),
            head="\n".join(whole.split("\n")[: len(head)]),
            code=whole.strip("\n"),
        )


def _fits(row: dict[str, str], tokenizer: Tokenizer) -> bool:
    for recipe in RECIPES:
        made = render(recipe, row, "row")
        texts = (made.prompt, made.completion)
        tokens = sum(len(tokenizer.encode(one, add_special_tokens=False)) for one in texts)
        if tokens + 2 > MOST_TOKENS:
            return False
    return True


def _plain(text: str) -> str:
    """The text whatever its indentation and blank lines."""
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the rows where the package keeps them, or into another file."""
    here = BUNDLED_FOLDER
    parser = argparse.ArgumentParser(
        prog="python -m tools.bundled.build_instruct", description=main.__doc__
    )
    parser.add_argument("--out", type=Path, default=here / "instruct" / "stdlib-instruct.jsonl")
    parser.add_argument("--library", type=Path, help="another Python's library folder")
    chosen = parser.parse_args(arguments)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(here / "tiny-mistral" / "tokenizer.json"))
    rows = instruct_rows(read_corpus(chosen.library), tokenizer)
    # ASCII escapes keep any character of the text on its line.
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
