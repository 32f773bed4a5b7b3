"""What ships inside the package, and the nearest name when there is none of the name asked for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "bundled:"

BUNDLED_FOLDER = Path(__file__).parent.parent / "bundled"


def bundled_models() -> dict[str, Path]:
    """Folders of the models that ship with qbench, by name."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED_FOLDER.glob("*/config.json"))}


def bundled_texts() -> dict[str, Path]:
    """Text files that ship with qbench, by name."""
    return {
        path.stem: path
        for path in sorted(BUNDLED_FOLDER.glob("*/*.txt"))
        if path.stem == path.parent.name
    }


def bundled_instruct() -> dict[str, Path]:
    """Files of instruction data that ship with qbench, by name."""
    return {path.stem: path for path in sorted((BUNDLED_FOLDER / "instruct").glob("*.jsonl"))}


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """Ends a message: the nearest of the names, and all of them."""
    known = list(names)
    near = difflib.get_close_matches(wrong, known, n=1)
    choice = f"did you mean {near[0]}? " if near else ""
    return f"{choice}There is {', '.join(known)}" if known else "there is none in this installation"
