"""The Python standard library's own source text, split into training and held-out modules.

Held out are whole modules, their tests among them, so that no line of the evaluation text was
seen in training through a module's own file or the file that tests it.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = (
    "bisect",
    "calendar",
    "colorsys",
    "configparser",
    "fractions",
    "graphlib",
    "heapq",
    "sched",
    "shelve",
    "textwrap",
    "zipapp",
)

# Installed third-party packages, and files that are tables or word lists rather than code.
_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"}
_MAX_FILE_BYTES = 400_000
_MAX_DIGIT_SHARE = 0.12


@dataclass(frozen=True)
class Corpus:
    """Source files of the standard library, by path relative to its folder, in sorted order."""

    train: dict[str, str]
    held_out: dict[str, str]

    @property
    def sha256(self) -> str:
        """Hash over all paths and texts: two builds with the same hash saw the same corpus."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            for path, text in part.items():
                digest.update(f"{path}\0{text}\0".encode())
        return digest.hexdigest()


def read_corpus(library: Path | None = None) -> Corpus:
    """Read the library's `.py` files; `library` defaults to the running interpreter's."""
    root = library or Path(sysconfig.get_paths()["stdlib"])
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _LEFT_OUT_FOLDERS & set(relative.parts) or relative.parts[0].startswith("config-"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a test file that is not UTF-8 on purpose
        if relative.as_posix() in {f"{name}.py" for name in HELD_OUT}:
            held_out[relative.as_posix()] = text
        elif not _belongs_to_held_out(relative) and _is_code(text):
            train[relative.as_posix()] = text
    return Corpus(train=train, held_out=held_out)


def _belongs_to_held_out(relative: Path) -> bool:
    """Whether a file tests or extends a held-out module (`test/test_heapq.py`)."""
    return any(name in relative.stem for name in HELD_OUT if len(name) > 3) or relative.stem in {
        f"test_{name}" for name in HELD_OUT
    }


def _is_code(text: str) -> bool:
    size = len(text)
    if not 200 <= size <= _MAX_FILE_BYTES:
        return False
    return sum(character.isdigit() for character in text) / size <= _MAX_DIGIT_SHARE
