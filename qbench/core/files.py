"""Files and folders that are whole at every moment: a reader, or a kill, finds the old or the new.

What is being written lies beside its place under a name that begins with a dot and ends in `.part`,
locked by whoever writes it. What a kill leaves behind is locked by no one: `sweep` removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Replaces a file by `contents` (text as UTF-8), on the disk when this returns.

    Its folder is made if need be. Raises `OSError` when that is not possible; the old file is then
    as it was, and nothing is left beside it. Nothing takes the place of a device or a pipe, such as
    `/dev/null`, which other programs would then find gone.
    """
    if _is_special(path):
        raise OSError(errno.EINVAL, "it is a device or a pipe, and no file can take its place")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, waiting = _waiting_file(path)
    try:
        with os.fdopen(handle, "wb") as file:
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

    So are folders above it that were made for it and are still empty. Raises `OSError` when it
    cannot be made.
    """
    new = [one for one in place.parents if not one.exists()]
    try:
        handle, waiting = _waiting_folder(place)
        try:
            yield waiting
        finally:
            os.close(handle)
            shutil.rmtree(waiting, ignore_errors=True)
    finally:
        with suppress(OSError):
            for one in new:
                one.rmdir()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Has the folder for itself: others that ask for the same wait. Raises `OSError`.

    Where the file system has no locks, no one waits.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
        handle = _claim(path)
        if handle is None:
            continue
        try:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
        finally:
            os.close(handle)


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists, absolute."""
    absolute = path.absolute()
    return next(one for one in (absolute, *absolute.parents) if one.exists())


def _is_special(path: Path) -> bool:
    """Whether it is, or links to, neither a file nor a folder, or stands for an open file."""
    try:
        if path.is_symlink() and path.readlink().is_relative_to("/proc"):
            return True  # such as /dev/stdout, whatever it leads to
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def _waiting_file(path: Path) -> tuple[int, str]:
    """A new file beside `path`, open and locked, and its name."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        if _lock(handle, name):
            return handle, name
        os.close(handle)


def _waiting_folder(place: Path) -> tuple[int, Path]:
    """A new folder beside `place`, open and locked, and its path."""
    while True:
        waiting = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
        waiting.mkdir(parents=True)
        with suppress(FileNotFoundError):  # swept before it was locked
            handle = os.open(waiting, os.O_RDONLY)
            if _lock(handle, waiting):
                return handle, waiting
            os.close(handle)


def _lock(handle: int, name: str | Path) -> bool:
    """Locks what is open until it is closed; False where it was swept before that.

    Where the file system has no locks, nothing is locked, and nothing swept.
    """
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        return Path(name).stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def _claim(path: Path) -> int | None:
    """Opens and locks what no one else has locked, if it is this user's; None otherwise."""
    try:
        # Neither through a link nor into a pipe, whose other end would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        own = os.fstat(handle).st_uid == os.getuid()
    except OSError:
        own = False
    if own:
        return handle
    os.close(handle)
    return None
