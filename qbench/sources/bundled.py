"""What ships inside the package."""

from __future__ import annotations

from pathlib import Path

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


def bundled_suites() -> dict[str, Path]:
    """Files of the suites that ship with qbench, by name."""
    files = (BUNDLED_FOLDER / "suites").glob("*.yaml")
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def bundled_instruct() -> dict[str, Path]:
    """Files of instruction data that ship with qbench, by name."""
    return {path.stem: path for path in sorted((BUNDLED_FOLDER / "instruct").glob("*.jsonl"))}
