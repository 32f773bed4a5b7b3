"""What `qbench reproduce` is given, as records: files and folders of them, and reports."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qbench.compare.baseline import LARGEST_BYTES, SUFFIXES, parse_baseline
from qbench.core.errors import StoreError, UsageError
from qbench.core.names import what_there_is
from qbench.core.packed_records import unpack
from qbench.core.record import SCHEMA_VERSION, Record
from qbench.core.record_files import paths_of, record_files
from qbench.core.store import parse_record, read_folder, read_record, tell_unreadable
from qbench.core.units import counted
from qbench.core.untrusted import cleaned, parse_json, read_bounded
from qbench.plan.suite.from_records import needed_keys
from qbench.precisions.names import picks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_PAGES = (".md", ".html", ".htm")
_EXPECTED = (
    "a record or a baseline (.json, .json.gz), a folder of records, or a report of qbench"
    " (.json, .html, .md, .csv)"
)


@dataclass
class Given:
    """The records that are to be measured again, and what else is known."""

    records: list[Record]
    known: dict[str, Record] = field(default_factory=dict)
    """By their keys, with those that they depend on."""
    notes: list[str] = field(default_factory=list)
    """What was passed over."""
    has_numbers: bool = True
    """Whether the records hold what was measured, which a page does not keep."""


def read_given(where: str, results: Path) -> Given:
    """The records of a file or a folder; raises `StoreError` or `UsageError` where there are none.

    A CSV has their keys alone, and the records are looked for below `results`.
    """
    path = Path(where)
    if path.is_dir():
        records, unreadable = read_folder(path)
        given = Given(records, notes=list(tell_unreadable(unreadable)))
    else:
        given = _of_file(path, results)
    if not given.records and given.notes:
        raise StoreError("\n".join(given.notes))
    if not given.records:
        raise StoreError(f"{where}: no records there; expected {_EXPECTED}")
    given.known |= {one.key: one for one in given.records}
    return given


def choose(
    given: Given, where: str, *, suite: str | None, measured_on: str | None, only: Sequence[str]
) -> Given:
    """The newest record of each item, of one suite and one device, of the cells that match.

    Raises `UsageError` where there are several suites or devices and none is named, and for a name
    or a pattern that finds none.
    """
    records = _one_of(given.records, where, "--suite", "suite", suite, lambda one: one.suite)
    records = _one_of(
        records,
        where,
        "--measured-on",
        "device",
        measured_on,
        lambda one: one.environment.device_kind,
    )
    for pattern in only:
        if not any(picks(pattern, one.cell.names) for one in records):
            slugs = dict.fromkeys(one.cell.slug for one in records)
            raise UsageError(
                f"--only {pattern!r}: matches no cell of {where}; {what_there_is(pattern, slugs)}"
            )
    chosen = [
        one for one in records if not only or any(picks(each, one.cell.names) for each in only)
    ]
    newest: dict[tuple[Any, ...], Record] = {}
    for one in sorted(chosen, key=lambda one: one.started_at):
        place = (bool(one.rehearsal), one.cell.slug, one.item.measurement, one.item.slug)
        newest[*place, one.item.repeat] = one
    older = len(chosen) - len(newest)
    notes = list(given.notes)
    if older:
        notes.append(f"{counted(older, 'older record')} of the same items left out")
    return Given(list(newest.values()), given.known, notes, given.has_numbers)


def _one_of(
    records: Sequence[Record],
    where: str,
    option: str,
    noun: str,
    wanted: str | None,
    name_of: Callable[[Record], str],
) -> list[Record]:
    names = dict.fromkeys(map(name_of, records))
    if wanted is None and len(names) > 1:
        raise UsageError(
            f"{where}: records of {counted(len(names), noun)}; expected one; name it with {option}:"
            f" {', '.join(names)}"
        )
    if wanted is not None and wanted not in names:
        raise UsageError(
            f"{option}: found no record of {wanted!r} in {where}; {what_there_is(wanted, names)}"
        )
    return [one for one in records if wanted in (None, name_of(one))]


def _of_file(path: Path, results: Path) -> Given:
    try:
        contents = read_bounded(path, LARGEST_BYTES)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file or folder; expected {_EXPECTED}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
    if path.name.endswith(SUFFIXES[1]):
        return Given(parse_baseline(contents, str(path)))
    if path.suffix in _PAGES:
        text = contents.decode("utf-8", errors="replace")
        records = unpack(text, str(path))
        if not records:
            raise StoreError(
                f"{path}: a page that keeps no records; expected one that `qbench report` wrote"
                " since it keeps them, or the records themselves"
            )
        return Given(records, has_numbers=False)
    if path.suffix == ".csv":
        return _of_csv(path, contents.decode("utf-8-sig", errors="replace"), results)
    if path.suffix == ".json":
        return _of_json(path, contents)
    raise StoreError(f"{path}: found a file of kind {path.suffix!r}; expected {_EXPECTED}")


def _of_json(path: Path, contents: bytes) -> Given:
    try:
        data = parse_json(contents)
    except ValueError as error:
        raise StoreError(f"{path}: not JSON ({error}); expected {_EXPECTED}") from error
    keys = data.keys() if isinstance(data, dict) else set()
    if "baseline_version" in keys:
        return Given(parse_baseline(contents, str(path)))
    if {"records", "decision_tables"} <= keys:
        return Given(_of_report(path, data))
    if not {"key", "identity", "cell", "item"} <= keys:
        raise StoreError(
            f"{path}: JSON, and none that holds records of qbench; expected {_EXPECTED}"
        )
    record = parse_record(contents, path)
    cell, device = path.absolute().parent, path.absolute().parent.parent
    # Of a file that lies elsewhere nothing is known of what lies beside it.
    at_home = (device.name, cell.name) == (record.environment.device_kind, record.cell.slug)
    return Given([record], _needed([record], device) if at_home else {})


def _of_report(path: Path, data: dict[str, Any]) -> list[Record]:
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: a report of version {version}, this qbench reads up to {SCHEMA_VERSION};"
            " upgrade qbench"
        )
    try:
        return [Record.model_validate(cleaned(one)) for one in data["records"]]
    except (ValidationError, TypeError) as error:
        raise StoreError(
            f"{path}: a record of the report is damaged; write the report again with"
            " `qbench report --format json`"
        ) from error


def _of_csv(path: Path, text: str, results: Path) -> Given:
    """Records of the keys, as far as they lie below `results`."""
    rows = csv.DictReader(io.StringIO(text))
    if rows.fieldnames is None or "key" not in rows.fieldnames:
        raise StoreError(f"{path}: no column key; expected the CSV of `qbench report --format csv`")
    keys = {key for row in rows if (key := row.get("key"))}
    found = _by_key(keys, results) if results.is_dir() else {}
    if not found:
        raise StoreError(
            f"{path}: a CSV has the keys of records alone, and none of its {len(keys)} lies below"
            f" {results}; name the folder that holds them with --results, or give the report as"
            " JSON, HTML or markdown"
        )
    missing = len(keys - found.keys())
    notes = [f"{counted(missing, 'record')} of the CSV not below {results}"] if missing else []
    return Given(list(found.values()), _needed(found.values(), results), notes)


def _needed(records: Iterable[Record], folder: Path) -> dict[str, Record]:
    """What the records depend on, and what that does, as far as it lies below the folder."""
    found: dict[str, Record] = {}
    wanted = {key for one in records for key in needed_keys(one)}
    while wanted:
        new = _by_key(wanted - found.keys(), folder)
        found |= new
        wanted = {key for one in new.values() for key in needed_keys(one)} - found.keys()
    return found


def _by_key(keys: Iterable[str], folder: Path) -> dict[str, Record]:
    wanted = set(keys)
    found: dict[str, Record] = {}
    for path in paths_of(record_files(folder)) if wanted else ():
        if path.stem.rpartition("-")[2] in wanted and (record := read_record(path)) is not None:
            found[record.key] = record
    return found
