"""What the files of many records hold, kept in the cache: never what the records are known by.

One DuckDB file for each folder that was asked for, in the folder `records` of the cache. It says of
each file which thing it is of, when it was taken, and which file that was: its inode, its times and
its size. Every file is looked at each time, and read anew where it is another. DuckDB, because it
joins a million rows in a third of the time of Parquet with pyarrow, and has checksums.

An index is written beside its place and moved there, and only ever opened to be read: two processes
neither wait for each other nor mix. One that is damaged or cannot be opened is made anew.
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_right
from contextlib import suppress
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from qbench.compare.comparable import fingerprint
from qbench.core.cache import cache_folder
from qbench.core.files import waiting_folder
from qbench.core.packages import qbench_version
from qbench.core.record import SCHEMA_VERSION, Record, content_key
from qbench.core.store import read_or_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from qbench.core.record_files import FilesOfFolder
    from qbench.core.store import UnreadableFile

INDEX_VERSION = 1
"""Another one where rows, or what makes a file a record, are others: older indexes are left."""
KIND = "records"
_RACY_NS = 2 * 10**9
"""A file that was written to this shortly before it was looked at may be written to once more
within one tick of its clock: what it holds is not kept."""
_READ_AT_ONCE = 50_000
"""Files after whose reading the index is written: a kill loses no more."""
_KEPT_FROM = 250
"""The index is written again once one file in so many is not in it: less is read in less time."""
_NEVER_NS = 2**63 - 1
"""As the time of a file that cannot be looked at: it is read each time."""
_NO_STAMP = SimpleNamespace(st_ino=0, st_mtime_ns=_NEVER_NS, st_ctime_ns=_NEVER_NS, st_size=0)
_MOST_THREADS = 4
_TEXTS = ("suite", "device", "thing", "heading", "key", "started")
"""What the index says of a record."""
_TABLES = """
    CREATE TABLE files (
        place INTEGER, id BIGINT, folder VARCHAR, name VARCHAR,
        inode UBIGINT, modified BIGINT, changed BIGINT, size BIGINT
    );
    CREATE TABLE rows (
        id BIGINT, kept BOOLEAN, suite VARCHAR, device VARCHAR, thing VARCHAR, heading VARCHAR,
        key VARCHAR, started VARCHAR
    );
"""
_FIND = """
    INSERT INTO rows
    SELECT id, true, suite, device, thing, heading, key, started
    FROM files JOIN kept.rows USING (folder, name, inode, modified, changed, size)
    WHERE place = ?
"""
_ADD = "INSERT INTO rows SELECT id, false, suite, device, thing, heading, key, started FROM read"
_COUNT = """
    SELECT count(*), count(*) FILTER (NOT kept) FROM files JOIN rows USING (id)
    WHERE place = ? AND greatest(modified, changed) < ?
"""
_KEEP = """
    CREATE TABLE made.rows AS
    SELECT folder, name, inode, modified, changed, size, suite, device, thing, heading, key, started
    FROM files JOIN rows USING (id)
    WHERE place = ? AND greatest(modified, changed) < ?
"""
_CHOOSE = """
    WITH once AS (
        SELECT rows.*, place FROM rows JOIN files USING (id)
        SEMI JOIN (SELECT min(id) AS id FROM rows GROUP BY suite, device, key, started) USING (id)
    ),
    newest AS (
        SELECT arg_max(id, (started, place, key, id)) AS id, count(*) AS there
        FROM once GROUP BY thing
    ),
    chosen AS (
        SELECT id FROM newest
        UNION SELECT arg_min(id, (place, started, key, id)) AS id FROM once GROUP BY heading
    )
    SELECT id, thing, key, started,
        coalesce(there - count(*) OVER (PARTITION BY thing), 0) AS older
    FROM once JOIN chosen USING (id) LEFT JOIN newest USING (id)
    ORDER BY place, started, key, id
"""


class Changed(Exception):  # noqa: N818 (no error: the records are looked at again)
    """A file was replaced while records were chosen."""


def thing_of(record: Record) -> str:
    """Names what the record is the newest or an older one of.

    Two records of one thing differ in nothing by which `select`, or who asks for some of the
    records, could take the older one and leave the newer.
    """
    cell, item = record.cell, record.item
    return _digest(
        record.protocol,
        *_heading_of(record),
        cell.model.kind,
        cell.model.location,
        cell.model.original,
        cell.model.name,
        item.measurement,
        item.slug,
        item.repeat,
        fingerprint(record),
        record.status == "ok",
    )


def _heading_of(record: Record) -> tuple[Any, ...]:
    """What is shown in the order of its first records, which are then read as well."""
    cell = record.cell
    place = record.suite, record.environment.device_kind, bool(record.rehearsal)
    return *place, cell.model.source, cell.slug, cell.label


def index_path(folder: Path) -> Path:
    """Where the index of a folder lies."""
    identity = {
        "folder": str(folder.resolve()),
        "version": [INDEX_VERSION, SCHEMA_VERSION, qbench_version()],
    }
    return cache_folder() / KIND / f"{content_key(identity)}.duckdb"


def read_by_index(
    folders: Sequence[Path], files: Sequence[Sequence[FilesOfFolder]]
) -> tuple[list[Record], list[UnreadableFile]]:
    """What `read_newest` tells of the files of each folder; their index is made, or mended.

    Raises `Changed` where another file took a chosen one's place meanwhile.
    """
    rows = _Rows(folders, files)
    try:
        unreadable = rows.read_unknown()
        return rows.chosen(), unreadable
    finally:
        rows.close()


class _Rows:
    """What all files hold, in memory: found in what is kept, else read."""

    def __init__(self, folders: Sequence[Path], files: Sequence[Sequence[FilesOfFolder]]) -> None:
        import duckdb

        self._folders = folders
        self._files = [one for each in files for one in each]
        self._first_ids = list(accumulate((len(one.names) for one in self._files), initial=0))
        self._sure_before_ns = time.time_ns() - _RACY_NS
        looked_at = _look_at(folders, files)
        self._memory = _loaded(looked_at)
        try:
            for place, folder in enumerate(folders):
                self._find(place, index_path(folder))
        except (duckdb.Error, UnicodeError):
            # A damaged index may leave the whole connection unusable.
            self.close()
            self._memory = _loaded(looked_at)

    def close(self) -> None:
        """Frees the memory."""
        self._memory.close()

    def _find(self, place: int, kept: Path) -> None:
        """Takes the rows of the files that are as they were when the index was written."""
        if kept.is_file():
            self._memory.execute(f"ATTACH {_quoted(kept)} AS kept (READ_ONLY)")
            self._memory.execute(_FIND, [place])
            self._memory.execute("DETACH kept")

    def read_unknown(self) -> list[UnreadableFile]:
        """Reads the files of which there are no rows, and returns those that are no records."""
        unknown = self._memory.execute(
            "SELECT id FROM files ANTI JOIN rows USING (id) ORDER BY id"
        ).fetchall()
        unreadable: list[UnreadableFile] = []
        for start in range(0, len(unknown), _READ_AT_ONCE):
            rows = []
            for (number,) in unknown[start : start + _READ_AT_ONCE]:
                record = read_or_note(self._path(number), unreadable)
                if record is not None:
                    rows.append((number, *_row(record)))
            self._add(rows)
            for place, folder in enumerate(self._folders):
                self._keep(place, index_path(folder))
        return unreadable

    def chosen(self) -> list[Record]:
        """The records of the rows that are chosen, which are read now; raises `Changed`."""
        found = []
        for number, thing, key, started, older in self._memory.execute(_CHOOSE).fetchall():
            # One that cannot be read any more has changed too.
            record = read_or_note(self._path(number), [])
            if record is None or (thing_of(record), record.key, record.started_at) != (
                thing,
                key,
                started,
            ):
                raise Changed
            found.append(record.standing_for(older))
        return found

    def _path(self, number: int) -> Path:
        at = bisect_right(self._first_ids, number) - 1
        folder, names = self._files[at]
        return Path(folder) / names[number - self._first_ids[at]]

    def _add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        import numpy as np

        if rows:
            numbers, *texts = zip(*rows, strict=True)
            columns = {"id": np.array(numbers, dtype=np.int64)}
            columns |= {
                name: np.array(column, dtype=object)
                for name, column in zip(_TEXTS, texts, strict=True)
            }
            self._memory.register("read", columns)
            self._memory.execute(_ADD)
            self._memory.unregister("read")

    def _keep(self, place: int, kept: Path) -> None:
        """Writes the index of a folder, where enough is new; one that cannot be is forgotten."""
        import duckdb

        sure = [place, self._sure_before_ns]
        there, fresh = self._memory.execute(_COUNT, sure).fetchone() or (0, 0)
        if fresh * _KEPT_FROM <= there:
            return
        # A full disk or a read-only home only means that the files are read again next time.
        with suppress(OSError, UnicodeError, duckdb.Error), waiting_folder(kept) as waiting:
            made = waiting / kept.name
            self._memory.execute(f"ATTACH {_quoted(made)} AS made")
            try:
                self._memory.execute(_KEEP, sure)
            finally:
                self._memory.execute("DETACH made")
            made.replace(kept)
            self._memory.execute(
                "UPDATE rows SET kept = true FROM files WHERE rows.id = files.id AND place = ?",
                [place],
            )


def _row(record: Record) -> tuple[str, ...]:
    """What the index says of a record: see `_TEXTS`."""
    return (
        record.suite,
        record.environment.device_kind,
        thing_of(record),
        _digest(*_heading_of(record)),
        record.key,
        record.started_at,
    )


def _digest(*parts: Any) -> str:
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _quoted(path: Path) -> str:
    """As a text in SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def _loaded(looked_at: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """A database in memory with the files, and no rows yet."""
    import duckdb

    memory = duckdb.connect(
        ":memory:",
        config={
            "threads": min(_MOST_THREADS, os.cpu_count() or 1),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": "",
        },
    )
    memory.execute(_TABLES)
    memory.register("looked_at", looked_at)
    memory.execute("INSERT INTO files SELECT * FROM looked_at")
    memory.unregister("looked_at")
    return memory


def _look_at(folders: Sequence[Path], files: Sequence[Sequence[FilesOfFolder]]) -> dict[str, Any]:
    """Which file each is, as the table `files` has it, in arrays."""
    import numpy as np

    stamps = []
    names: list[str] = []
    below: list[str] = []
    places: list[int] = []
    for place, (folder, each) in enumerate(zip(folders, files, strict=True)):
        for inner, found in each:
            stamps.append(_stamps(inner, found))
            as_text = _is_text(inner + "".join(found))
            names += found if as_text else [""] * len(found)
            below += [inner.removeprefix(str(folder)) if as_text else ""] * len(found)
            places += [place] * len(found)
            if not as_text:
                stamps[-1][2][:] = _NEVER_NS
    inodes, modified, changed, sizes = map(np.concatenate, zip(*stamps, strict=True))
    return {
        "place": np.array(places, dtype=np.int32),
        "id": np.arange(len(names)),
        "folder": np.array(below, dtype=object),
        "name": np.array(names, dtype=object),
        "inode": inodes,
        "modified": modified,
        "changed": changed,
        "size": sizes,
    }


def _stamps(folder: str, names: Sequence[str]) -> tuple[Any, Any, Any, Any]:
    """Inodes, times of writing and of change, and sizes, an array each.

    The time of change, which no program can set back, also tells of a new name or of new rights.
    """
    stat = os.stat
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return _columns([stat(name, dir_fd=handle) for name in names])
        finally:
            os.close(handle)
    except (OSError, OverflowError):  # one is gone, a link to nowhere, or of a far future
        return _columns([_stamp_of_one(Path(folder, name)) for name in names])


def _stamp_of_one(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError:
        found = None
    if found is None or max(found.st_mtime_ns, found.st_ctime_ns) > _NEVER_NS:
        return _NO_STAMP
    return found


def _columns(stamps: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    import numpy as np

    count = len(stamps)
    return (
        np.fromiter((one.st_ino for one in stamps), np.uint64, count),
        np.fromiter((one.st_mtime_ns for one in stamps), np.int64, count),
        np.fromiter((one.st_ctime_ns for one in stamps), np.int64, count),
        np.fromiter((one.st_size for one in stamps), np.int64, count),
    )


def _is_text(name: str) -> bool:
    """Whether it is UTF-8, as the names of files need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
