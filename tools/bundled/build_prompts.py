"""Writes the bundled prompts: places in the held-out library text, with what follows there.

    python -m tools.bundled.build_prompts

A place is inside a paragraph of indented code: the prompt is the text up to the end of one of its
lines, the reference the rest of the paragraph. The model was trained on none of it. The same text
gives the same prompts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from qbench.sources.bundled import BUNDLED_FOLDER

COUNT = 16
STRIDE = 7
"""From one chosen place to the next; shares no factor with `COUNT`."""
PROMPT_CHARACTERS = (200, 600)
"""Fewest and most: at about 2.5 characters a token, few enough for a context of 512."""
REFERENCE_CHARACTERS = (50, 160)
"""Fewest and most: about 64 tokens."""
SOURCE = BUNDLED_FOLDER / "stdlib-heldout" / "stdlib-heldout.txt"
OUT = BUNDLED_FOLDER / "prompts" / "stdlib-prompts.jsonl"


def find_places(text: str) -> list[tuple[str, str]]:
    """All (prompt, reference) of the text, in its order; each pair joined stands in the text."""
    places = []
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    first = 0
    for index, line in enumerate([*lines, ""]):
        if line.strip():
            continue
        paragraph = lines[first:index]
        if len(paragraph) >= 4 and all(each.startswith("    ") for each in paragraph):
            # The prompt ends where a line ends; the reference begins with the line feed.
            middle = starts[first + len(paragraph) // 2] - 1
            reference = text[middle : starts[index] - 1]
            prompt = _last_lines(text[:middle])
            few, most = REFERENCE_CHARACTERS
            if few <= len(reference) <= most and len(prompt) >= PROMPT_CHARACTERS[0]:
                places.append((prompt, reference))
        first = index + 1
    return places


def choose(places: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """So many places, evenly spread, in an order whose first few are spread as well."""
    spread = [places[index * len(places) // count] for index in range(count)]
    return [spread[index * STRIDE % count] for index in range(count)]


def _last_lines(text: str) -> str:
    """The last whole lines of a text, as many as fit into a prompt."""
    end = text[-PROMPT_CHARACTERS[1] :]
    return end if len(end) == len(text) else end.partition("\n")[2].lstrip("\n")


def main() -> None:
    """Writes the prompts into the file named by `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    chosen = choose(find_places(SOURCE.read_text(encoding="utf-8")), COUNT)
    rows = [{"prompt": prompt, "reference": reference} for prompt, reference in chosen]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
