"""Joins folders of results: each record whole, the folders it comes from untouched.

A record is copied as it is, by its bytes. What is kept of several records of one place follows from
these records alone, so that a call which was stopped is finished by the same call again.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbench.compare.merge.choice import choose
from qbench.compare.merge.logs import join_logs
from qbench.compare.merge.takes import Found, find_takes, read_take
from qbench.core.errors import StoreError
from qbench.core.files import held, sweep
from qbench.core.store import (
    DamagedRecordError,
    UnreadableFile,
    check_writable,
    write_record_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path, PurePosixPath

    from qbench.compare.merge.choice import Choice, Prefer
    from qbench.compare.merge.takes import Take

_REMEDY = "merge again: only what is missing is copied"


@dataclass
class Merged:
    """What was joined, or would be."""

    target: Path
    found: tuple[Found, ...]
    """What each folder holds, in the order they were named."""
    dry_run: bool
    new: int = 0
    """Records that the target did not have."""
    replaced: int = 0
    """Records of the target that another one took the place of."""
    already: int = 0
    """Records that the target had."""
    logs: int = 0
    """Logs that are new in the target, or longer than before."""
    several: list[Choice] = field(default_factory=list)
    """What was made of places with several records that are not the same."""
    kept: list[Take] = field(default_factory=list)
    """What the target holds at the places of all these folders' records."""
    mended: list[Path] = field(default_factory=list)
    """The target's files that were damaged, where a record lies now."""
    refused: list[UnreadableFile] = field(default_factory=list)
    """Files that cannot be joined, of these folders and of the target."""

    @property
    def undecided(self) -> list[Choice]:
        """Where no record was taken, since figures differ that should be equal."""
        return [choice for choice in self.several if choice.undecided]

    @property
    def left(self) -> list[str]:
        """What else was not joined, a sentence each."""
        return [sentence for found in self.found for sentence in found.left]


def merge_results(
    folders: Sequence[Path], target: Path, *, prefer: Prefer | None = None, dry_run: bool = False
) -> Merged:
    """Joins the folders of results into `target`, which may be one of them or new.

    `prefer` decides where figures differ that should be equal: for the folder named first (the
    target before all, where it is not named), or the newest record. `dry_run` writes nothing.
    Raises `StoreError` for a folder that is not there, where there is no record at all,
    and for a target that cannot be written.
    """
    found = tuple(find_takes(folder) for folder in folders)
    if not any(one.takes or one.refused for one in found):
        names = ", ".join(map(str, folders))
        within = "".join(f"; {sentence}" for one in found for sentence in one.left)
        raise StoreError(f"{names}: no records there; `qbench run SUITE` makes some{within}")
    merged = Merged(target, found, dry_run)
    merged.refused += [refused for one in found for refused in one.refused]
    takes: dict[PurePosixPath, list[Take]] = {}
    for take in (take for one in found for take in one.takes):
        takes.setdefault(take.place, []).append(take)
    if not dry_run:
        check_writable(target, option="--to")
    # Of two merges at once the second sees what the first one joined.
    with nullcontext() if dry_run else held(target):
        if not dry_run:
            for part in dict.fromkeys((target, *((target / place).parent for place in takes))):
                sweep(part)
        # A target that was named has its own place among the others.
        named = target.exists() and any(folder.samefile(target) for folder in folders)
        for place in sorted(takes):
            _join(target / place, takes[place], merged, prefer, named=named)
        kept = {take.place.parent for take in merged.kept}
        merged.logs = join_logs(found, target, kept, merged.refused, dry_run=dry_run)
    return merged


def _join(
    path: Path, takes: list[Take], merged: Merged, prefer: Prefer | None, *, named: bool
) -> None:
    """Makes one of the records of a place; what cannot be read is refused."""
    try:
        there, damage = _there(path, merged.target)
        choice = choose(takes if there is None or named else [there, *takes], prefer)
        contents = None if choice.kept is None else choice.kept.contents()
    except StoreError as error:
        merged.refused.append(UnreadableFile(path, error))
        return
    if choice.why is not None:
        merged.several.append(choice)
    if choice.kept is None or contents is None:
        return
    merged.kept.append(choice.kept)
    if there is not None and there.digest == choice.kept.digest:
        merged.already += 1
        return
    if not merged.dry_run:
        write_record_text(path, contents, remedy=_REMEDY)
    merged.new += there is None
    merged.replaced += there is not None
    if damage:
        # The target's file was refused where the target was named; it is whole now.
        merged.refused = [one for one in merged.refused if not _is_at(one.path, path)]
        merged.mended.append(path)


def _there(path: Path, target: Path) -> tuple[Take | None, bool]:
    """The target's own record, and whether there is a file that is damaged."""
    try:
        return (read_take(path, target), False) if path.exists() else (None, False)
    except DamagedRecordError:
        return None, True


def _is_at(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)
