"""sha256 of files, kept in the cache for big ones so that planning again does not read them."""

from __future__ import annotations

import errno
import hashlib
import stat
import time
from typing import TYPE_CHECKING

from qbench.core.cache import read_cached, write_cached

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_BIG_BYTES = 32 * 1024 * 1024
"""Files below this are hashed in less time than a cache entry is worth."""
_SETTLED_S = 2.0
"""A file changed this recently may change again within one tick of its clock."""


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's contents; raises `OSError` when it cannot be read.

    A pipe is not waited for, and a device that never ends is not read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if status.st_size < _BIG_BYTES:
        return _hash(path)
    identity = {
        "path": str(path.resolve()),
        "size_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,  # which no one sets back, as they do the other
        "inode": status.st_ino,
    }
    kept = read_cached("sha256", identity)
    if isinstance(kept, str):
        return kept
    digest = _hash(path)
    if time.time() - status.st_ctime > _SETTLED_S:
        write_cached("sha256", identity, digest)
    return digest


def files_sha256(files: Iterable[Path]) -> str:
    """Hexadecimal sha256 over the names and contents of files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        total.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
