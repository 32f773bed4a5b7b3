"""The records that a history is made of: on the disk, and in what was committed and when.

Nothing is kept beside them: git is asked each time.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from qbench.compare.baseline import LARGEST_BYTES, SUFFIXES, parse_baseline, read_baseline
from qbench.core.errors import StoreError, UsageError
from qbench.core.git import TO_FETCH_THE_REST, repository_of
from qbench.core.record_files import BASELINES, is_record_file
from qbench.core.spec import slugify
from qbench.core.store import LARGEST_RECORD_BYTES, parse_record, read_folder, tell_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.git import Commit, Repository
    from qbench.core.record import Record

_HEAD_BYTES = 4096
_SUITE = re.compile(rb'"suite"\s*:\s*("(?:[^"\\]|\\.)*")')
"""In the first lines of a baseline."""


@dataclass(frozen=True)
class Batch:
    """Records that came together."""

    records: tuple[Record, ...]
    commit: Commit | None
    """The commit that brought them in; None on the disk."""


@dataclass(frozen=True)
class Batches:
    """All that there is of a suite, what was committed first, as it was committed."""

    every: tuple[Batch, ...]
    repository: Repository | None
    notes: tuple[str, ...]
    """What was passed over and why, and what the repository lacks."""


def find_batches(suite: str, results: Path) -> Batches:
    """The records and baselines of a suite below a folder of results, now and in each commit.

    They are those of `<suite>` in it or in a folder of it, and its baselines, of any name. Raises
    `StoreError` where there are none at all.
    """
    notes: dict[str, None] = {}
    repository: Repository | None = None
    committed: list[Batch] = []
    try:
        repository = _repository(results)
    except UsageError as error:
        notes[f"commits are not known: {error}"] = None
    if repository is not None:
        if repository.is_shallow():
            notes[
                f"{repository.root} is a shallow clone, whose history begins late:"
                f" {TO_FETCH_THE_REST}"
            ] = None
        committed = _committed(repository, suite, results, notes)
    every = [*committed, *_on_disk(suite, results, notes)]
    kept = [Batch(_of_suite(one.records, suite), one.commit) for one in every]
    kept = [one for one in kept if one.records]
    if not kept:
        told = "".join(f"\n{note}" for note in notes)
        raise StoreError(
            f"{suite}: found no records of it in {results}, nor in what was committed there;"
            " expected those of `qbench run SUITE`, or baselines of `qbench baseline SUITE`; name"
            f" their folder with --results{told}"
        )
    return Batches(tuple(kept), repository, tuple(notes))


def _repository(results: Path) -> Repository:
    """That of the results; of the current folder, whose commit runs name, where they lie outside.

    Raises `UsageError` where neither is in one.
    """
    try:
        return repository_of(results)
    except UsageError:
        return repository_of(Path())


def _of_suite(records: Sequence[Record], suite: str) -> tuple[Record, ...]:
    return tuple(one for one in records if one.suite == suite and not one.rehearsal)


def _on_disk(suite: str, results: Path, notes: dict[str, None]) -> Iterator[Batch]:
    folders = [results / slugify(suite), *results.glob(f"*/{slugify(suite)}")]
    for folder in folders:
        if folder.is_dir() and BASELINES not in folder.relative_to(results).parts:
            records, unreadable = read_folder(folder)
            notes |= dict.fromkeys(tell_unreadable(unreadable))
            yield Batch(tuple(records), None)
    for path in sorted((results / BASELINES).glob("*.json*")):
        if not path.name.endswith(SUFFIXES):
            continue
        try:
            yield Batch(tuple(read_baseline(path)), None)
        except StoreError as error:
            notes[str(error)] = None


def _committed(
    repository: Repository, suite: str, results: Path, notes: dict[str, None]
) -> list[Batch]:
    """What each commit brought, the first commit first."""
    try:
        inside, head = repository.inside(results), repository.resolve("HEAD")
    except UsageError:  # the results lie outside, or there is no commit yet
        return []
    brought: dict[str, tuple[Commit, list[Record]]] = {}
    try:
        for commit, records in _read(repository, suite, inside, head, notes):
            brought.setdefault(commit.hash, (commit, []))[1].extend(records)
    except UsageError as error:
        notes[f"what was committed was not read to its end: {error}"] = None
    return [Batch(tuple(records), commit) for commit, records in brought.values()]


def _read(
    repository: Repository, suite: str, results: str, head: str, notes: dict[str, None]
) -> Iterator[tuple[Commit, list[Record]]]:
    """The records of each file with the commit that brought it, the first commit first.

    Raises `UsageError` where the repository lacks something.
    """
    wanted: dict[str, tuple[Commit, str]] = {}
    for commit in repository.commits(head, below=[results], changed=True):
        for file in commit.changed:
            path = PurePosixPath(file.path)
            if file.blob is not None and (_is_baseline(path) or _is_record(path, results, suite)):
                wanted.setdefault(file.blob, (commit, file.path))
    for blob, contents in repository.contents(wanted, max(LARGEST_BYTES, LARGEST_RECORD_BYTES)):
        commit, name = wanted[blob]
        try:
            yield commit, _parsed(contents, f"{commit.short}:{name}", suite)
        except StoreError as error:
            notes[str(error)] = None


def _parsed(contents: bytes | None, shown: str, suite: str) -> list[Record]:
    """The records of a file; none of a baseline of another suite. Raises `StoreError`."""
    if contents is None:
        raise StoreError(f"{shown}: larger than any baseline or record")
    if not _is_baseline(PurePosixPath(shown.partition(":")[2])):
        return [parse_record(contents, Path(shown))]
    return parse_baseline(contents, shown) if _names(contents, suite) else []


def _is_baseline(path: PurePosixPath) -> bool:
    return path.parent.name == BASELINES and path.name.endswith(SUFFIXES)


def _is_record(path: PurePosixPath, results: str, suite: str) -> bool:
    below = path.relative_to(results) if results != "." else path
    return slugify(suite) in below.parts[:2] and is_record_file(below)


def _names(contents: bytes, suite: str) -> bool:
    """Whether a baseline's first lines say that it is of the suite; it is where they do not say."""
    head = contents[:_HEAD_BYTES]
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, _HEAD_BYTES)
        except (zlib.error, gzip.BadGzipFile):
            return True  # told as damaged
    found = _SUITE.search(head)
    try:
        return found is None or json.loads(found[1]) == suite
    except ValueError:
        return True
