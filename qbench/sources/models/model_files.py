"""The files that a model, or an adapter, is read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import ModelError
from qbench.sources.models.gguf_models import gguf_of
from qbench.sources.models.headers import weight_files
from qbench.sources.models.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = ("*.json", "*.py")


def stored_weights(folder: Path) -> list[Path]:
    """The files that hold the weights of a model or an adapter; none of random weights."""
    file = gguf_of(folder)
    if file is not None:
        return [file]
    try:
        return weight_files(folder)
    except ModelError:  # an adapter's are called otherwise
        return sorted(folder.glob("*.safetensors"))


def read_files(folder: Path) -> list[Path]:
    """All that loading reads: the weights, the configuration, the tokenizer, code of its own."""
    small = {path for pattern in _SMALL for path in folder.glob(pattern)}
    small |= {folder / name for name in tokenizer_files(folder)}
    return [*stored_weights(folder), *sorted(small)]
