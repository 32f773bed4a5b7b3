"""Files that are whole at every moment: a reader, or a kill, finds the old one or the new one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Replaces a file by `contents` (text as UTF-8), on the disk when this returns.

    Its folder is made if need be. Raises `OSError` when that is not possible; the old file is then
    as it was, and nothing is left beside it. What a kill leaves behind begins with a dot and ends
    in `.part`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, waiting = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
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
