"""How the exports of records write a folder of files, and what they say of it at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import StoreError, UsageError
from qbench.core.files import write_atomically
from qbench.core.units import counted
from qbench.report.console import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.report.exports.tree import Exported, ExportedFile

_MOST_TOLD = 10
"""Notes that are shown; the rest are counted."""


def write_folder(to: Path, exported: Exported, *, force: bool) -> None:
    """Writes the files below `to`, each whole or not at all, and says what there is to know.

    Raises `UsageError` before anything is written for a folder that is a file, for a file that is
    there and that nobody asked to replace, and for one that a link would lead elsewhere.
    """
    if to.exists() and not to.is_dir():
        raise UsageError(f"--to {to}: found a file; expected a folder, or a name that is free")
    _check_places(to, exported.files, force=force)
    for file in exported.files:
        target = to / file.path
        try:
            write_atomically(target, file.text)
        except OSError as error:
            raise StoreError(
                f"{target}: cannot be written ({error.strerror or error}); free space or fix the"
                " folder's permissions, or name another with --to, then export again with --force"
            ) from error
    for told in exported.notes[:_MOST_TOLD]:
        say(f"- {told}", stderr=True)
    more = len(exported.notes) - _MOST_TOLD
    if more > 0:
        say(f"- {more} more reasons why figures were left out", stderr=True)
    say(f"wrote {counted(len(exported.files), 'file')} below {to}")


def _check_places(to: Path, files: Sequence[ExportedFile], *, force: bool) -> None:
    inside = to.resolve()
    there = []
    for file in files:
        target = to / file.path
        if not target.parent.resolve().is_relative_to(inside) or ".." in file.path.parts:
            raise UsageError(
                f"--to {to}: {file.path} would lie outside that folder, as a link in it leads"
                " elsewhere; remove the link, or name another folder"
            )
        if target.is_dir():
            raise UsageError(f"{target}: found a folder; expected room for a file; remove it")
        if target.exists() or target.is_symlink():
            there.append(target)
    if there and not force:
        more = f" and {len(there) - 1} more of its files" if len(there) > 1 else ""
        were = "are" if more else "is"
        raise UsageError(
            f"--to {to}: {there[0].relative_to(to)}{more} {were} there already;"
            " name another folder, or --force replaces them"
        )
