"""Paths that a person wrote."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.untrusted import in_one_line

if TYPE_CHECKING:
    from qbench.core.errors import UsageError

_SHOWN = 100
"""Characters of a path that are enough to know it by."""
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


def written_path(text: str, base: Path, failure: type[UsageError]) -> Path:
    """The absolute path that a text means, from `base` or from `~`, links as they stand.

    It need not exist. Raises `failure` for a text that can be no path here, so that whether
    something is there can be asked afterwards: an unknown user behind `~`, a name too long for a
    file, a link that leads back to itself, a folder that may not be looked into.
    """
    place = in_one_line(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    try:
        path = base / Path(text).expanduser()
    except RuntimeError as error:
        user = place.partition("/")[0].removeprefix("~")
        raise failure(
            f"{place}: no home folder of {user or 'yours'} is known on this machine; write the"
            " path out, or ~ for your own home"
        ) from error
    try:
        os.stat(path)  # noqa: PTH116 - of a path with a NUL character too
    except ValueError as error:
        raise failure(
            f"{place}: holds a character that no path can hold; correct the path"
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise failure(
                f"{place}: its links lead in a circle; expected a file or folder behind them;"
                " correct the link"
            ) from error
        if error.errno not in _NOT_THERE:
            raise failure(
                f"{place}: can be no path on this machine ({error.strerror}); check its spelling"
                " and the permissions of the folders above it"
            ) from error
    return path.absolute()
