"""Files that go with a model's weights wherever these go: tokenizer, licence, settings, code."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from qbench.sources.models.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    from pathlib import Path

_TERMS = ("LICEN[CS]E*", "NOTICE*", "USE_POLICY*", "COPYING*")
_OF_WHOLE_MODELS = ("generation_config.json", "*.py")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


def copy_beside(source: Path, target: Path, *, whole: bool) -> None:
    """Copies what goes with the weights of `source` to `target`, where they are already.

    Of a `whole` model also what only its own class reads. No pickle is copied, and nothing that is
    there replaced. Raises `OSError`.
    """
    patterns = (*_TERMS, *(_OF_WHOLE_MODELS if whole else ()))
    found = {path.name for pattern in patterns for path in source.glob(pattern) if path.is_file()}
    for name in sorted({*found, *tokenizer_files(source)}):
        place = target / name
        if place.suffix not in _PICKLES and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, place)
