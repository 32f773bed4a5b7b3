"""Folders of the cache that stand for models whose files are not as transformers reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.cache import cache_folder
from qbench.core.errors import ModelError
from qbench.core.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def standing_for(kind: str, name: str, files: Iterable[tuple[str, bytes]]) -> Path:
    """The folder of that kind and name, with these files in it: names and contents.

    What is there already as it should be is not written again. Raises `ModelError` when the cache
    cannot be written.
    """
    folder = cache_folder() / kind / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for own, contents in files:
            kept = folder / own
            if not kept.is_file() or kept.read_bytes() != contents:
                write_atomically(kept, contents)
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot be written ({error.strerror or error}); free space, or name another"
            " cache folder with the environment variable QBENCH_CACHE"
        ) from error
    return folder
