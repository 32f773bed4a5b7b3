"""Folders of the cache that are believed only while they are what was made.

    <folder>/…            what was made
    <folder>/seal.json    {"key": what it was made for, "files": {path within the folder: sha256}}

A folder that was moved to another's place, or of which a bit has changed since, is made again.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock

from qbench.core.errors import NotKeptError
from qbench.core.files import waiting_folder, write_atomically
from qbench.sources.fingerprint import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEAL = "seal.json"
_STREAM_ERRORS = ("PytorchStreamWriter", "inline_container", "unexpected pos")
"""Of what torch.save raises on a full disk: a plain RuntimeError."""


def seal(folder: Path, key: str) -> None:
    """Notes what the folder was made for and what it holds; to be called when it is whole."""
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
    write_atomically(folder / SEAL, json.dumps({"key": key, "files": files}, indent=1) + "\n")


def broken_seal(folder: Path, key: str) -> str | None:
    """Why the folder is not what was made for `key`, in words; None if it is.

    Files that are big are read once, and again when they were written to since.
    """
    try:
        kept = json.loads((folder / SEAL).read_bytes())
        made_for, files = kept["key"], dict(kept["files"])
    except FileNotFoundError:
        return f"it has no {SEAL}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {SEAL} cannot be read"
    if made_for != key:
        return f"it was made for {made_for}"
    for name, expected in files.items():
        try:
            if file_sha256(folder / name) != expected:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return _added(folder, {*files, SEAL})


def _added(folder: Path, known: set[str]) -> str | None:
    """Why a file in it may change what is loaded: an adapter beside weights is applied to them."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in known and not path.name.startswith("."):
            return f"{path.name} was not written with it"
    return None


@contextmanager
def sealed_folder(place: Path, key: str) -> Iterator[Path]:
    """Gives an empty folder; what lies in it when the block ends is `place` from then on, sealed.

    Raises `NotKeptError` when that cannot be written; what was there before is then as it was.
    """
    with cache_write_errors(place), waiting_folder(place) as waiting:
        yield waiting
        seal(waiting, key)
        shutil.rmtree(place, ignore_errors=True)
        waiting.replace(place)


@contextmanager
def cache_write_errors(place: Path) -> Iterator[None]:
    """Raises `NotKeptError` for whatever the libraries raise when a file cannot be written."""
    try:
        yield
    except Exception as error:
        if not _is_of_writing(error):
            raise
        raise NotKeptError(
            f"{place}: cannot be kept in the cache ({_words(error)}); free space, or name another"
            " folder with the environment variable QBENCH_CACHE"
        ) from error


@contextmanager
def maker_lock(place: Path) -> Iterator[None]:
    """Waits until no one else makes what lies at `place`; the lock of a killed process is free.

    Raises `NotKeptError` where nothing can be written.
    """
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    with cache_write_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_of_writing(error: Exception) -> bool:
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _STREAM_ERRORS)
    )


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
