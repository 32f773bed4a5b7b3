"""Which files below a folder may be records, found in one walk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qbench.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import PurePath

BASELINES = "baselines"
"""Folder under the results that holds baseline files, which are no records."""


class FilesOfFolder(NamedTuple):
    """What lies directly in one folder, and may be records."""

    folder: str
    names: list[str]
    """Sorted."""


def record_files(folder: Path) -> list[FilesOfFolder]:
    """The files of each folder, that one first, then those below it by their names.

    Hidden files and baselines are none, links to folders are not followed, and a folder that cannot
    be listed is passed over. Raises `StoreError` when there is no such folder.
    """
    if not folder.is_dir():
        raise StoreError(
            f"{folder}: no such folder of results; `qbench run SUITE` makes one,"
            " or name another with --results"
        )
    found = []
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        names, inner = _listed(place)
        if names:
            found.append(FilesOfFolder(place, sorted(names)))
        below = sorted((name for name in inner if name != BASELINES), reverse=True)
        waiting += [f"{place}{os.sep}{name}" for name in below]
    return found


def is_record_file(path: PurePath) -> bool:
    """Whether a file of that path below a folder of records is to be one of them."""
    # Baselines are files of many records each, read by `qbench gate`.
    return _is_named_so(path.name) and BASELINES not in path.parts


def paths_of(files: Iterable[FilesOfFolder]) -> Iterator[Path]:
    """The path of each file, in their order."""
    for folder, names in files:
        place = Path(folder)
        for name in names:
            yield place / name


def _is_named_so(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _listed(place: str) -> tuple[list[str], list[str]]:
    """Names of what may be records, and of the folders."""
    names: list[str] = []
    inner: list[str] = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name
                if _is_named_so(name):
                    names.append(name)
                if entry.is_dir(follow_symlinks=False):
                    inner.append(name)
    except OSError:
        pass  # closed to this user, or gone since: what was seen of it is read
    return names, inner
