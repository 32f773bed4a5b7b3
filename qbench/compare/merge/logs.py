"""Joins the logs beside records: one after another, none twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.core.errors import StoreError
from qbench.core.files import write_atomically
from qbench.core.store import UnreadableFile
from qbench.core.untrusted import read_bounded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path, PurePosixPath

    from qbench.compare.merge.takes import Found

LARGEST_LOG_BYTES = 64 * 2**20
"""A log that is larger stays where it is."""
_JOB = re.compile(rb"^(?=--- )", re.MULTILINE)
"""Where what was said in the next job begins."""


def join_logs(
    found: Sequence[Found],
    target: Path,
    folders: set[PurePosixPath],
    refused: list[UnreadableFile],
    *,
    dry_run: bool,
) -> int:
    """Puts each log of these folders behind what the target has of it; how many became longer.

    `folders` are those of cells that the target has a record of. What cannot be read or written is
    added to `refused`: a log is no reason to stop.
    """
    places = dict.fromkeys(place for one in found for place in one.logs if place.parent in folders)
    return sum(_join_log(found, target, place, refused, dry_run=dry_run) for place in places)


def _join_log(
    found: Sequence[Found],
    target: Path,
    place: PurePosixPath,
    refused: list[UnreadableFile],
    *,
    dry_run: bool,
) -> bool:
    path = target / place
    own = _text(path, refused) if path.exists() else b""
    if own is None:
        return False
    joined = own
    for one in found:
        log = one.logs.get(place)
        text = None if log is None else _text(log, refused)
        if not text or text in joined:
            continue
        if joined in text:
            joined = text
        else:
            there = {part.rstrip() for part in _JOB.split(joined)}
            more = b"".join(part for part in _JOB.split(text) if part.rstrip() not in there)
            joined += (b"" if joined.endswith(b"\n") else b"\n") + more
    if joined == own:
        return False
    try:
        if not dry_run:
            write_atomically(path, joined)
    except OSError as error:
        refused.append(_refused(path, f"cannot be written ({error.strerror or error})"))
        return False
    return True


def _text(path: Path, refused: list[UnreadableFile]) -> bytes | None:
    try:
        return read_bounded(path, LARGEST_LOG_BYTES)
    except OSError as error:
        refused.append(_refused(path, f"cannot be read ({error.strerror})"))
        return None


def _refused(path: Path, why: str) -> UnreadableFile:
    told = f"{path}: the log {why}; the records beside it are joined all the same"
    return UnreadableFile(path, StoreError(told))
