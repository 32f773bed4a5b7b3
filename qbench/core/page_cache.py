"""What the operating system keeps of files in memory: put out of it, read into it, counted.

Linux tells page by page which of a file's it keeps (`mincore`), to a user who owns the file or may
write it; to others it says all of them. Of a mapping that some process has touched pages stay,
whatever is asked for; so does everything on a file system that is memory itself, such as tmpfs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK_BYTES = 2**24
_WINDOW_BYTES = 2**30
"""Looked at at once: a whole number of pages."""


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Asks the operating system to forget the files, so that the next one to read them waits.

    What is not on the disk yet is written first, since such pages stay. Nothing happens where the
    system has no such request.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        with path.open("rb") as file:
            with suppress(OSError):  # of a file system that cannot be written
                os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_into_page_cache(files: Iterable[Path]) -> None:
    """Reads the files once, to the end."""
    buffer = bytearray(_CHUNK_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def share_in_page_cache(files: Iterable[Path]) -> float | None:
    """The share of the files' bytes that is in memory, by whole pages; None: it is not told.

    1.0 where the files hold nothing.
    """
    if sys.platform != "linux":
        return None
    pages = kept = 0
    for path in files:
        found = _pages_of(path)
        if found is None:
            return None
        pages += found[0]
        kept += found[1]
    return kept / pages if pages else 1.0


def file_system_of(path: Path) -> str:
    """The kind of file system that a file lies on, such as `ext4`; `unknown` where none is told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        place = path.resolve()
    except OSError:
        return "unknown"
    kinds = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        kinds[Path(before.split()[4].encode().decode("unicode_escape"))] = after.split()[0]
    return next((kinds[folder] for folder in (place, *place.parents) if folder in kinds), "unknown")


def _pages_of(path: Path) -> tuple[int, int] | None:
    """How many pages a file has, and how many of them are in memory; None: it is not told."""
    if not _is_told_of(path):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    size, kept = path.stat().st_size, 0
    with path.open("rb") as file:
        for start in range(0, size, _WINDOW_BYTES):
            length = min(_WINDOW_BYTES, size - start)
            count = -(-length // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * count)()
            # Private and writable, so that its address can be had; nothing is written, and a page
            # that is only mapped is not read.
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=start) as mapped:
                view = (ctypes.c_char * length).from_buffer(mapped)
                failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), length, states)
                del view  # or the mapping could not be closed
            if failed:
                return None
            kept += sum(state & 1 for state in states)
    return -(-size // mmap.PAGESIZE), kept


def _is_told_of(path: Path) -> bool:
    return os.access(path, os.W_OK) or path.stat().st_uid == os.geteuid()
