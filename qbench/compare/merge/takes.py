"""Folders of results to be joined: the records in each, and what is left where it is.

A record goes where its own words say it belongs, and only if it lies there already, below the
folder that was named: so nothing that a stranger's file says leads out of the folders. Links are
not followed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.core.errors import StoreError
from qbench.core.record import content_key
from qbench.core.record_files import BASELINES, is_record_file
from qbench.core.store import (
    LARGEST_RECORD_BYTES,
    REHEARSALS,
    UnreadableFile,
    parse_record,
    record_path,
)
from qbench.core.units import counted
from qbench.core.untrusted import cleaned, in_one_line, read_bounded, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qbench.core.record import Record, Status

LOG = ".log"
"""Suffix of what workers and servers said, beside the records."""


class What(NamedTuple):
    """What a record is of."""

    suite: str
    device: str
    """The device's kind."""
    cell: str
    """The cell's slug."""
    measurement: str
    item: str
    repeat: int

    @property
    def words(self) -> str:
        """Names it within its suite and device."""
        repeat = f" (repeat {self.repeat})" if self.repeat else ""
        return f"{self.cell} {self.measurement} {self.item}{repeat}"


@dataclass(frozen=True)
class Take:
    """A record file, and what of it decides between several of one place."""

    place: PurePosixPath
    """Below the folder of results."""
    folder: Path
    """That was named, or the target."""
    path: Path
    digest: bytes
    """sha256 of the file."""
    what: What
    meant: str
    """See `meant_by`."""
    rehearsal: bool
    status: Status
    figures: int
    """Metrics that have a value."""
    started_at: str

    def contents(self) -> bytes:
        """The file as it was when it was looked at; `StoreError` where it is another by now."""
        found = _read(self.path)
        if hashlib.sha256(found).digest() != self.digest:
            raise StoreError(
                f"{self.path}: the record was written anew while it was joined; merge again"
            )
        return found

    def record(self) -> Record:
        """The whole record; raises as `contents`."""
        return parse_record(self.contents(), self.path)


@dataclass
class Found:
    """What lies in one of the folders to be joined."""

    folder: Path
    """As it was named."""
    takes: list[Take] = field(default_factory=list)
    logs: dict[PurePosixPath, Path] = field(default_factory=dict)
    """By the place that they have below the folder of results: those beside records."""
    refused: list[UnreadableFile] = field(default_factory=list)
    """Files that are to be records, and are none that can be joined."""
    left: list[str] = field(default_factory=list)
    """What else is not joined, a sentence each."""


def find_takes(named: Path) -> Found:
    """All that is to be joined of a folder: one of results, or of a suite, device or cell in it.

    Raises `StoreError` where there is no such folder.
    """
    if not named.is_dir():
        raise StoreError(
            f"{named}: found {'a file' if named.exists() else 'nothing'}; expected a folder of"
            " results, as `qbench run` leaves it; name that"
        )
    found = Found(named)
    others: Counter[Path] = Counter()
    aside: dict[str, list[Path]] = {"link": [], "file": [], BASELINES: []}
    logs = []
    for path in _files(named, aside, found.refused):
        if path.suffix == LOG:
            logs.append(path)
        elif not is_record_file(path.relative_to(named)):
            aside["file"].append(path)
        else:
            try:
                take = read_take(path, named)
            except StoreError as error:
                found.refused.append(UnreadableFile(path, error))
                continue
            within = _within(named, _root(path, take.place))
            if within is None:
                found.takes.append(take)
            else:
                others[within] += 1
    folders = {take.path.parent: take.place.parent for take in found.takes}
    for path in logs:
        if path.parent in folders:
            found.logs[folders[path.parent] / path.name] = path
    found.left += _sentences(aside, others)
    return found


def read_take(path: Path, folder: Path) -> Take:
    """A record file below a folder.

    Raises `StoreError` for a file that is none, of a newer version, or that lies where its record
    does not belong.
    """
    contents = _read(path)
    record = parse_record(contents, path)
    place = _place(record)
    if _root(path, place) is None:
        raise StoreError(
            f"{path}: found a record that belongs at {in_one_line(str(place))} below a folder of"
            " results; expected it there; move it, or leave it where it is"
        )
    return Take(
        place=place,
        folder=folder,
        path=path,
        digest=hashlib.sha256(contents).digest(),
        what=what_of(record),
        meant=meant_by(record.identity, record.protocol),
        rehearsal=bool(record.rehearsal),
        status=record.status,
        figures=sum(metric.value is not None for metric in record.metrics),
        started_at=record.started_at,
    )


def what_of(record: Record) -> What:
    """What the record is of."""
    item = record.item
    kind, cell = record.environment.device_kind, record.cell.slug
    return What(record.suite, kind, cell, item.measurement, item.slug, item.repeat)


def meant_by(identity: Mapping[str, Any], protocol: str) -> str:
    """Names what was to be measured, wherever that was: model, precision, parameters, protocol.

    Of a record's identity this leaves out what the machine decides: the device, versions of
    packages, keys that hold these, and which kernel multiplies.
    """
    model, precision, measurement = (
        found if isinstance(found := identity.get(name), dict) else {}
        for name in ("model", "precision", "measurement")
    )
    decided = {
        "model": model.get("fingerprint"),
        "precision": [precision.get("name"), precision.get("options")],
        "params": measurement.get("params"),
        "protocol": protocol,
    }
    # As texts are cleaned where a record is read.
    return content_key(cleaned(_without_kernels(decided), visible))


def _without_kernels(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_kernels(one) for name, one in value.items() if name != "kernel"}
    return [*map(_without_kernels, value)] if isinstance(value, list | tuple) else value


def _place(record: Record) -> PurePosixPath:
    results = Path(REHEARSALS) if record.rehearsal else Path()
    kind, cell = record.environment.device_kind, record.cell.slug
    path = record_path(results, record.suite, kind, cell, record.item, record.key)
    return PurePosixPath(path.as_posix())


def _root(path: Path, place: PurePosixPath) -> Path | None:
    """The folder of results that a record of that place lies in; None where it lies elsewhere."""
    for whole in _meant(path):
        if whole.parts[-len(place.parts) :] == place.parts:
            return whole.parents[len(place.parts) - 1]
    return None


def _within(named: Path, root: Path | None) -> Path | None:
    """The root as a folder within the one that was named; None where it is not within."""
    if root is None:
        return None
    above = next((folder for folder in _meant(named) if folder in root.parents), None)
    return None if above is None else named / root.relative_to(above)


def _meant(path: Path) -> Iterator[Path]:
    """Without `..`: first with the links in it, whose names may be what was meant, then without."""
    yield Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow them
    yield path.resolve()


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST_RECORD_BYTES)
    except OSError as error:
        raise StoreError(
            f"{path}: the record cannot be read ({error.strerror}); fix or delete the file"
        ) from error


def _files(
    folder: Path, aside: dict[str, list[Path]], refused: list[UnreadableFile]
) -> Iterator[Path]:
    """The files below the folder in order, but for hidden ones, links and baselines."""

    def unread(error: OSError) -> None:
        place = Path(error.filename)
        told = StoreError(
            f"{place}: the folder cannot be read ({error.strerror}); fix its permissions"
        )
        refused.append(UnreadableFile(place, told))

    for place, folders, files in os.walk(folder, onerror=unread):
        here = Path(place)
        kept = []
        for name in sorted(folders):
            if name == BASELINES:
                aside[BASELINES].append(here / name)
            elif (here / name).is_symlink():
                aside["link"].append(here / name)
            elif not name.startswith("."):
                kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            if (here / name).is_symlink():
                aside["link"].append(here / name)
            elif not name.startswith("."):
                yield here / name


def _sentences(aside: dict[str, list[Path]], others: Counter[Path]) -> list[str]:
    told = [
        f"{root}: {counted(count, 'record')} of another folder of results within; name it by itself"
        for root, count in others.items()
    ]
    reasons = {
        "link": "links are not followed; name what they lead to",
        "file": "neither records nor logs beside them",
        BASELINES: "baselines are no records; `qbench baseline SUITE` makes one of what is joined",
    }
    for kind, reason in reasons.items():
        if aside[kind]:
            more = f" and {len(aside[kind]) - 1} more" if len(aside[kind]) > 1 else ""
            told.append(f"{aside[kind][0]}{more}: {reason}")
    return [in_one_line(one) for one in told]
