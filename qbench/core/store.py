"""Records on disk: one JSON file each, written atomically, never overwritten by another key.

results/<suite>/<device>/<cell>/<measurement>-<item>-<key>.json
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.core.errors import StoreError
from qbench.core.files import write_atomically
from qbench.core.record import SCHEMA_VERSION, Record
from qbench.core.record_files import paths_of, record_files
from qbench.core.spec import Item, slugify
from qbench.core.untrusted import cleaned, in_one_line, parse_json, read_bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


REHEARSALS = "rehearsal"
"""Folder under the results that rehearsals go to."""
_MOST_TOLD = 20
LARGEST_RECORD_BYTES = 256 * 2**20
"""A file beyond this is no record: raw rows of the longest texts are some megabytes."""

FileStamp = tuple[int, int, int]
"""Which file it is, when it was written to, and its size."""


class DamagedRecordError(StoreError):
    """A record file that is cut short or is no record."""


class NewerRecordError(StoreError):
    """A record file that a newer qbench wrote."""


@dataclass(frozen=True)
class UnreadableFile:
    """A file among the records that could not be read, and why."""

    path: Path
    error: StoreError


def record_path(
    results: Path, suite: str, device_kind: str, cell: str, item: Item, key: str
) -> Path:
    """Where the record of an item of a cell lies."""
    repeat = f"-r{item.repeat}" if item.repeat else ""
    name = f"{item.measurement}-{slugify(item.slug)}{repeat}-{key}.json"
    return results / slugify(suite) / device_kind / cell / name


def write_record(path: Path, record: Record) -> None:
    """Writes the record so that a kill at any point leaves the old file or the new one, whole.

    Raises `StoreError` when the folder cannot be written or the disk is full.
    """
    write_record_text(path, record.model_dump_json(indent=1) + "\n")


def write_record_text(
    path: Path, text: str | bytes, *, remedy: str = "run again: only what is missing is measured"
) -> None:
    """As `write_record`, of a record's file that was written elsewhere.

    `remedy` is what to do once it can be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StoreError(
            f"{path}: the record cannot be written ({error.strerror or error}); free space or fix"
            f" the folder's permissions, then {remedy}"
        ) from error


def append_to_log(path: Path, text: str) -> None:
    """Adds to a cell's log, which is made with its folder where it is not there.

    Raises `StoreError` when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(
            f"{path}: the cell's log cannot be written ({error.strerror}); free space or fix the"
            " folder's permissions, then run again"
        ) from error


def file_stamp(path: Path) -> FileStamp | None:
    """What tells one file of that name from the next; None where there is none.

    A record's own time does not: another machine wrote it, whose clock may be ahead.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def check_writable(
    results: Path, least_free_bytes: int = 32 * 2**20, *, option: str = "--results"
) -> None:
    """Raises `StoreError` when records could not be written under `results`.

    `option` is that of the command line that named it.
    """
    probe = results / f".writable.{os.getpid()}.part"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.write_text("x", encoding="utf-8")
        probe.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        raise StoreError(
            f"{results}: the results folder cannot be written ({error.strerror or error});"
            f" choose another with {option}, or fix its permissions or its disk"
        ) from error
    status = os.statvfs(results)
    free = status.f_bavail * status.f_frsize
    if free < least_free_bytes:
        raise StoreError(
            f"{results}: {free / 2**20:.0f} MiB free on its disk, at least"
            f" {least_free_bytes / 2**20:.0f} MiB are wanted at the start; free space or choose"
            f" another folder with {option}"
        )


def read_record(path: Path) -> Record | None:
    """The record at `path`; None if there is none.

    Raises `DamagedRecordError` for a file that is cut short or no record, `NewerRecordError` for
    one of a newer version, and `StoreError` for one that cannot be read at all.
    """
    try:
        contents = read_bounded(path, LARGEST_RECORD_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(
            f"{path}: the record cannot be read ({error.strerror}); fix or delete the file"
        ) from error
    return parse_record(contents, path)


def parse_record(contents: bytes, path: Path) -> Record:
    """The record that a file of that path holds, which need not lie on the disk.

    Raises as `read_record` does.
    """
    try:
        data = parse_json(contents)
    except ValueError as error:
        raise DamagedRecordError(
            f"{path}: the record is cut short or damaged (not JSON: {error}); delete the file,"
            " and `qbench run` measures it again"
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerRecordError(
            f"{path}: the record is of version {version}, this qbench reads up to {SCHEMA_VERSION};"
            " upgrade qbench, or move the file away"
        )
    try:
        record = Record.model_validate(cleaned(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = in_one_line(".".join(map(str, first["loc"]))) or "the whole"
        raise DamagedRecordError(
            f"{path}: not a qbench record ({place}: {first['msg']}, {error.error_count()} such"
            " problems); delete the file, and `qbench run` measures it again"
        ) from error
    if not path.name.endswith(f"-{record.key}.json"):
        raise DamagedRecordError(
            f"{path}: the record's key is {record.key}, which its file's name does not end with:"
            " it is a copy of another, or was renamed; give it its own name back, or delete it, and"
            " `qbench run` measures it again"
        )
    return record


def read_folder(folder: Path) -> tuple[list[Record], list[UnreadableFile]]:
    """All records below a folder, in the order they were taken, and the files that are none.

    Raises `StoreError` when there is no such folder.
    """
    return read_files(paths_of(record_files(folder)))


def read_files(paths: Iterable[Path]) -> tuple[list[Record], list[UnreadableFile]]:
    """The records of the files, in the order they were taken, and the files that are none."""
    records: list[Record] = []
    unreadable: list[UnreadableFile] = []
    for path in paths:
        record = read_or_note(path, unreadable)
        if record is not None:
            records.append(record)
    records.sort(key=lambda record: (record.started_at, record.key))
    return records, unreadable


def read_or_note(path: Path, unreadable: list[UnreadableFile]) -> Record | None:
    """The record at `path`; None if there is none, or the file is none, which is then noted."""
    try:
        return read_record(path)
    except StoreError as error:
        unreadable.append(UnreadableFile(path, error))
        return None


def tell_unreadable(files: Sequence[UnreadableFile]) -> tuple[str, ...]:
    """Why each of the first files cannot be read, and how many more there are."""
    more = len(files) - _MOST_TOLD
    told = tuple(str(file.error) for file in files[:_MOST_TOLD])
    return (*told, f"and {more} more files that cannot be read") if more > 0 else told
