"""Files and folders that are whole at every moment: a reader, or a kill, finds the old or the new.

What is being written lies beside its place under a name that begins with a dot and ends in `.part`,
locked by whoever writes it. What a kill leaves behind is locked by no one: `sweep` removes it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTLED_S = 1.0
"""Below this age a file or folder may not be locked yet."""


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Replaces a file by `contents` (text as UTF-8), on the disk when this returns.

    Its folder is made if need be. Raises `OSError` when that is not possible; the old file is then
    as it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, waiting = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            _lock(handle)
            file.write(contents.encode() if isinstance(contents, str) else contents)
            file.flush()
            os.fsync(file.fileno())
            Path(waiting).chmod(0o644)
            Path(waiting).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(waiting).unlink()
        raise


@contextmanager
def waiting_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, to be filled and moved; what is left of it is removed.

    Raises `OSError` when it cannot be made.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    waiting = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    waiting.mkdir()
    handle = os.open(waiting, os.O_RDONLY)
    try:
        _lock(handle)
        yield waiting
    finally:
        os.close(handle)
        shutil.rmtree(waiting, ignore_errors=True)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """An empty folder of this user's where the system keeps what is temporary, removed at the end.

    What killed processes left there under that name is removed first. Raises `OSError`.
    """
    temporary = Path(tempfile.gettempdir())
    sweep(temporary, f".{name}.*.part")
    with waiting_folder(temporary / name) as folder:
        folder.chmod(0o700)
        yield folder


def sweep(folder: Path, pattern: str = ".*.part") -> None:
    """Removes what killed processes left directly in the folder: what of that name no one locks.

    Other users' files, and what cannot be looked at, stay.
    """
    for path in folder.glob(pattern):
        if _is_left_behind(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _lock(handle: int) -> None:
    """Locks what is open until it is closed, where the file system has locks."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_left_behind(path: Path) -> bool:
    try:
        # Neither through a link nor into a pipe, whose other end would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return status.st_uid == os.getuid() and time.time() - status.st_mtime > _SETTLED_S
    finally:
        os.close(handle)
