"""Makes the bundled conversations: `python -m tools.bundled.build_chat`.

Each asks for a function of the Python standard library, by its head and docstring; every fourth has
a first function written in it already and asks for another. They are rows of the bundled
instruction data, spread evenly over it, so that the same data gives the same file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from qbench.sources.bundled import BUNDLED_FOLDER

COUNT = 40
"""Twice as many as decide anything."""
LATER = 4
"""Every so many conversations there is one with an answer in it."""
MOST_CHARACTERS = 400
"""Of a row: few enough for a context of 512 beside an answer."""
SOURCE = BUNDLED_FOLDER / "instruct" / "stdlib-instruct.jsonl"
OUT = BUNDLED_FOLDER / "prompts" / "stdlib-chat.jsonl"


def conversations(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The messages of each conversation, from rows with instruction, input and output."""
    short = [row for row in rows if sum(map(len, row.values())) <= MOST_CHARACTERS]
    chosen = [short[at * len(short) // (2 * COUNT)] for at in range(2 * COUNT)]
    made = []
    for at in range(COUNT):
        first, second = chosen[2 * at], chosen[2 * at + 1]
        before = []
        if at % LATER == LATER - 1:
            before = [_asked(second), {"role": "assistant", "content": second["output"]}]
        made.append([*before, _asked(first)])
    return made


def _asked(row: dict[str, str]) -> dict[str, str]:
    words = f"Write this Python function.\n\n{row['input']}\n\n{row['instruction']}"
    return {"role": "user", "content": words}


def main() -> None:
    """Writes the conversations into the file named by `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bundled.build_chat", description=main.__doc__
    )
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows: list[Any] = [json.loads(line) for line in SOURCE.read_text("utf-8").splitlines()]
    lines = "".join(
        json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
        for messages in conversations(rows)
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
