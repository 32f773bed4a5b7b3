"""Makes the bundled calibration text: `python -m tools.bundled.build_calibration`.

Whole files of the Python standard library, of the part that the bundled model was trained on: none
is a held-out module, tests one or has a long line of one, and none has a function that stands in
the bundled instruction data, with its docstring or without. The files follow from the library and
the rules below alone; the same library gives the same text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.sources.bundled import BUNDLED_FOLDER
from tools.bundled.build_instruct import functions_of
from tools.bundled.corpus import read_corpus

if TYPE_CHECKING:
    from tools.bundled.corpus import Corpus

MOST_BYTES = 1_300_000
"""Of the whole text: 128 windows of 2,048 tokens for tokenizers of up to 4.8 bytes a token."""
FILE_BYTES = (1_000, 12_000)
"""Of one file: long enough to have a style of its own, short enough that many find room."""

LONG = 40
"""Characters from which a line or a function is told from others (not `return self._x`)."""


def calibration_text(corpus: Corpus, rows: list[dict[str, str]]) -> str:
    """Files spread evenly over all that the rules allow, joined by one newline.

    `rows` are those of the instruction data.
    """
    docstrings = {row["instruction"] for row in rows}
    codes = {code for row in rows if len(code := stripped_lines(row["output"])) >= LONG}
    held_out = {line for text in corpus.held_out.values() for line in _long_lines(text)}
    allowed = [
        text
        for text in corpus.train.values()
        if FILE_BYTES[0] <= len(text.encode()) <= FILE_BYTES[1]
        and docstrings.isdisjoint(one.docstring for one in functions_of(text))
        and not _has_any(text, codes)
        and held_out.isdisjoint(_long_lines(text))
    ]
    size = sum(len(text.encode()) + 1 for text in allowed)
    count = min(len(allowed), len(allowed) * MOST_BYTES // size)
    return "\n".join(allowed[position * len(allowed) // count] for position in range(count))


def stripped_lines(text: str) -> str:
    """The text without indents, so that a method is found in any class."""
    return "\n".join(line.strip() for line in text.splitlines())


def _long_lines(text: str) -> set[str]:
    return {line for one in text.splitlines() if len(line := one.strip()) >= LONG}


def _has_any(text: str, codes: set[str]) -> bool:
    whole = stripped_lines(text)
    return any(code in whole for code in codes)


def main() -> None:
    """Writes the text to the folder named by `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = BUNDLED_FOLDER
    parser.add_argument("--out", type=Path, default=here / "stdlib-calibration")
    chosen = parser.parse_args()
    rows = here / "instruct" / "stdlib-instruct.jsonl"
    text = calibration_text(
        read_corpus(), [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "stdlib-calibration.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
