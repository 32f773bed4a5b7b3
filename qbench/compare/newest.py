"""The newest records below folders: of each thing that was measured the last, each record once.

Of a few records all are read. Where a history has left many, what each file holds is known by an
index (`record_index.py`), and the newest alone are read: they say for how many older ones they
stand, so that `select` finds in them what it finds in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.record_files import paths_of, record_files
from qbench.core.store import read_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.core.record import Record
    from qbench.core.store import UnreadableFile

MANY = 2_000
"""Records from which an index is kept: below, all are read in the time that it takes to ask it."""
_TRIES = 3


def read_newest(*folders: Path) -> tuple[list[Record], list[UnreadableFile]]:
    """Of each thing the newest record, and the files that are none; of few records all of them.

    By folder, each in the order they were taken; a record that lies there twice comes once. Older
    ones are counted by `Record.older`. Raises `StoreError` when there is no such folder.
    """
    for _ in range(_TRIES):
        files = [record_files(folder) for folder in folders]
        if sum(len(names) for each in files for _, names in each) < MANY:
            break
        from qbench.compare.record_index import Changed, read_by_index

        try:
            return read_by_index(folders, files)
        except Changed:
            continue
    parts = [read_files(paths_of(each)) for each in files]
    unreadable = [file for _, refused in parts for file in refused]
    return each_once([record for records, _ in parts for record in records]), unreadable


def each_once(records: Sequence[Record]) -> list[Record]:
    """Without copies of a record, which lie where folders were joined or are named twice."""
    found: dict[tuple[str, ...], Record] = {}
    for one in records:
        found.setdefault((one.suite, one.environment.device_kind, one.key, one.started_at), one)
    return list(found.values())
