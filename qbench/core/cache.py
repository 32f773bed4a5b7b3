"""The cache folder, and small JSON values in it, named by the hash of what they follow from.

Everything here only saves time: it is safe to delete, an entry that cannot be read is taken anew,
and one that cannot be written is forgotten.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from qbench.core.errors import UsageError
from qbench.core.files import sweep, write_atomically
from qbench.core.paths import written_path
from qbench.core.record import content_key


def cache_folder() -> Path:
    """`$QBENCH_CACHE`, else the platform's cache folder for qbench; it need not exist yet.

    Raises `UsageError` where the variable names what can be no folder.
    """
    chosen = os.environ.get("QBENCH_CACHE")
    if chosen:
        return _chosen_folder(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("qbench"))


def _chosen_folder(chosen: str) -> Path:
    try:
        return written_path(chosen, Path.cwd(), UsageError)
    except UsageError as error:
        raise UsageError(f"QBENCH_CACHE: {error}") from error


def cache_size_bytes() -> int:
    """Bytes of all files in the cache folder; 0 when there is none."""
    total = 0
    for parent, _, names in os.walk(cache_folder()):
        for name in names:
            # A file may vanish while it is counted: another run replaces entries.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 (os.walk)
    return total


def sweep_cache() -> None:
    """Removes what killed processes left half written."""
    for folder, _, _ in os.walk(cache_folder()):
        sweep(Path(folder))


def read_cached(kind: str, identity: dict[str, Any]) -> Any | None:
    """The value kept for this identity, or None if there is none or it cannot be read.

    `kind` is the folder within the cache; `identity` is everything the value follows from.
    """
    try:
        entry = json.loads(_entry_path(kind, identity).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    # The identity is kept beside the value, so that a file of something else is not used.
    if not isinstance(entry, dict) or entry.get("identity") != identity:
        return None
    return entry.get("value")


def write_cached(kind: str, identity: dict[str, Any], value: Any) -> None:
    """Keeps a JSON value for this identity; a cache that cannot be written is not an error."""
    path = _entry_path(kind, identity)
    # A full disk or a read-only home only means that the work is done again next time.
    with contextlib.suppress(OSError):
        write_atomically(path, json.dumps({"identity": identity, "value": value}))


def _entry_path(kind: str, identity: dict[str, Any]) -> Path:
    return cache_folder() / kind / f"{content_key(identity)}.json"
