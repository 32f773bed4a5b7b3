"""Sides that a revision of git names: what was committed there, or measured there or before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from qbench.compare.baseline import LARGEST_BYTES, SUFFIXES, parse_baseline
from qbench.compare.gate.against import Against
from qbench.core.errors import StoreError, UsageError
from qbench.core.git import repository_of
from qbench.core.record_files import BASELINES, is_record_file
from qbench.core.store import (
    LARGEST_RECORD_BYTES,
    UnreadableFile,
    parse_record,
    read_folder,
    tell_unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.git import Commit, Repository, StoredFile
    from qbench.core.record import Record


@dataclass(frozen=True)
class Found:
    """Records of a revision, of which the newest of each thing are still to be chosen."""

    against: Against
    records: Sequence[Record]
    notes: Sequence[str] = ()


def names_revision(where: str) -> bool:
    """Whether it is written as git writes a path at a revision, `REV:PATH`, and is no file."""
    revision, colon, path = where.partition(":")
    return bool(colon and revision and path) and not Path(where).exists()


def committed(where: str, suite: str | None = None) -> Found:
    """What `REV:PATH` names: a baseline's file, a folder with the suite's, or of records.

    PATH is counted from the root of the repository that holds the current folder, one that begins
    with `./` or `../` from that folder: as git has it. Raises `UsageError` where nothing is there.
    """
    revision, _, path = where.partition(":")
    try:
        repository = repository_of(Path())
        commit = repository.commit(revision)
    except UsageError as error:
        raise UsageError(f"{where}, read as a path at a revision (REV:PATH): {error}") from error
    base = Path.cwd() if path.startswith(("./", "../")) else repository.root
    found = _committed_at(repository, revision, commit, repository.inside(base / path), suite)
    if found is None:
        raise StoreError(
            f"{where}: found nothing of that name in commit {commit.told}; expected a baseline's"
            " file or a folder of records that is committed there; `git ls-tree -r --name-only"
            f" {revision}` lists its files"
        )
    return found


def at_revision(
    revision: str,
    suite: str,
    results: Path,
    place: Path | None = None,
    *,
    measured: bool,
    device_kind: str | None = None,
) -> Found:
    """A suite's records at a revision.

    With `measured` those on disk that name the revision, or of each thing that was not measured
    there the nearest commit before it, of the device if it left any; where there are none, and
    without `measured`, what was committed there. `place` is the folder or the file to look at;
    without it the suite's baseline and the suite's folder below `results` are. Raises `UsageError`
    where nothing is found.
    """
    repository = repository_of(Path())
    commit = repository.commit(revision)
    folder = place or results / suite
    if measured:
        found = _measured_by(repository, revision, commit, folder, device_kind)
        if found is not None:
            return found
    places = [place] if place is not None else [results / BASELINES, folder]
    for inside in _within(repository, places, all_outside=measured):
        found = _committed_at(repository, revision, commit, inside, suite)
        if found is not None:
            return found
    looked = ", ".join(f"{each}" for each in places)
    on_disk = (
        f"no record in {folder} names it or a commit before it (a `+` behind a commit is for"
        " changes that were not committed), and "
        if measured
        else ""
    )
    raise StoreError(
        f"{revision}, commit {commit.told}: {on_disk}nothing of {suite} is committed there in"
        f" {looked}; expected a baseline or records; commit what `qbench baseline SUITE` writes,"
        " or check that commit out, run the suite with --results FOLDER, and name"
        f" FOLDER/{suite} with --baseline"
    )


def _within(repository: Repository, places: Sequence[Path], *, all_outside: bool) -> list[str]:
    """The places as git names them, without those outside the repository.

    Raises `UsageError` where that leaves none, unless `all_outside` may be.
    """
    found = []
    for place in places:
        with suppress(UsageError):
            found.append(repository.inside(place))
    if not found and not all_outside:
        repository.inside(places[-1])
    return found


def _measured_by(
    repository: Repository,
    revision: str,
    commit: Commit,
    folder: Path,
    device_kind: str | None,
) -> Found | None:
    if not folder.is_dir():
        return None
    records, unreadable = read_folder(folder)
    here = [one for one in records if one.environment.device_kind == device_kind]
    records = [one for one in (here or records) if not one.rehearsal]
    named = {one.environment.git_revision for one in records} - {None}
    order = repository.holds([commit.hash], {str(one) for one in named})
    places = {one: at for at, one in enumerate(order)}
    nearest: dict[tuple[object, ...], int] = {}
    dated = []
    for one in records:
        at = places.get(str(one.environment.git_revision))
        if at is not None:
            dated.append((at, one))
            nearest[_thing(one)] = max(at, nearest.get(_thing(one), at))
    chosen = [one for at, one in dated if at == nearest[_thing(one)]]
    if not chosen:
        return None
    counts = [
        (sum(one.environment.git_revision == name for one in chosen), name)
        for name in reversed(order)
    ]
    told = ", ".join(
        f"{count} measured at {'it' if name == commit.hash else repository.commit(name).short}"
        for count, name in counts
        if count
    )
    return Found(
        Against(str(folder), revision, commit, f"records in {folder}, {told}"),
        chosen,
        tell_unreadable(unreadable),
    )


def _thing(record: Record) -> tuple[object, ...]:
    """What a record is of, whenever it was taken; the repeats of one commit belong together."""
    item = record.item
    kind = record.environment.device_kind
    return record.suite, kind, record.cell.slug, item.measurement, item.slug


def _committed_at(
    repository: Repository, revision: str, commit: Commit, inside: str, suite: str | None
) -> Found | None:
    files = repository.files(commit.hash, inside)
    by_path = {file.path: file for file in files}
    folder = PurePosixPath(inside)
    of_suite = [str(folder / f"{suite}{suffix}") for suffix in SUFFIXES] if suite else []
    for name in (inside, *of_suite):
        if name in by_path:
            return _baseline(repository, revision, commit, by_path[name])
    files = [one for one in files if is_record_file(PurePosixPath(one.path).relative_to(folder))]
    if not files:
        return None
    shown = f"{revision}:{inside}"
    records, unreadable = _records(repository, revision, files)
    notes = tell_unreadable(unreadable)
    if not records:
        why = notes[0] if folder.name != BASELINES else "name a baseline by its own file"
        raise StoreError(f"{shown}: found no file that is a record; {why}")
    source = f"records committed in {inside}"
    return Found(Against(inside, revision, commit, source, committed=True), records, notes)


def _records(
    repository: Repository, revision: str, files: Sequence[StoredFile]
) -> tuple[list[Record], list[UnreadableFile]]:
    """As `read_folder` gives them."""
    records: list[Record] = []
    unreadable: list[UnreadableFile] = []
    of_blob: dict[str, list[Path]] = {}
    for file in files:
        of_blob.setdefault(str(file.blob), []).append(Path(f"{revision}:{file.path}"))
    for blob, contents in repository.contents(of_blob, LARGEST_RECORD_BYTES):
        for path in of_blob[blob]:
            if contents is None:
                unreadable.append(UnreadableFile(path, StoreError(f"{path}: too large a record")))
                continue
            try:
                records.append(parse_record(contents, path))
            except StoreError as error:
                unreadable.append(UnreadableFile(path, error))
    records.sort(key=lambda record: (record.started_at, record.key))
    return records, unreadable


def _baseline(repository: Repository, revision: str, commit: Commit, file: StoredFile) -> Found:
    shown = f"{revision}:{file.path}"
    ((_, contents),) = repository.contents([str(file.blob)], LARGEST_BYTES)
    if contents is None:
        raise StoreError(f"{shown}: larger than any baseline; name another file")
    source = f"the baseline committed in {file.path}"
    against = Against(file.path, revision, commit, source, committed=True)
    return Found(against, parse_baseline(contents, shown))
