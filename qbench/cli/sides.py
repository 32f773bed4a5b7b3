"""What a person names on the command line, as the records of one suite on one device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.cli.revisions import at_revision, committed, names_revision
from qbench.compare.baseline import SUFFIXES, read_baseline
from qbench.compare.gate.against import Against
from qbench.compare.newest import read_newest
from qbench.compare.selection import select
from qbench.core.errors import ModelError, StoreError, UsageError
from qbench.core.names import did_you_mean
from qbench.core.store import tell_unreadable
from qbench.precisions.names import nearest_words, picks
from qbench.report.summary import left_out
from qbench.sources.bundled import bundled_suites

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.cli.revisions import Found
    from qbench.core.record import Record
    from qbench.plan.suite.suite import Suite


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    records: tuple[Record, ...]
    """The newest of each thing."""
    notes: tuple[str, ...] = ()
    """What was passed over, such as files that cannot be read."""
    against: Against | None = None
    """What it is called as the old side of a gate; None for one that was not asked for as such."""


def load_side(where: str, results: Path = Path("results")) -> Side:
    """Records from a folder, a baseline file, a suite's file, a model or a cell below `results`.

    A folder or a baseline may stand as git knows it, `REV:PATH`. A cell is named by its label or
    slug, or a pattern that finds one cell. Raises `UsageError` where there is nothing of that name,
    no record, or records of several suites or devices.
    """
    path = Path(where)
    folder, suite = folder_of(path, results)
    if suite is not None or folder.is_dir():
        return load_folder(folder, suite.name if suite else where, model=where)
    if names_revision(where):
        return _of_revision(committed(where))
    if path.suffix in {".json", ".gz"} or path.is_file():
        return Side(where, tuple(read_baseline(path)))
    return _cell(where, results)


def records_of(where: Path, results: Path = Path("results")) -> tuple[Path, Suite | None]:
    """What `folder_of` says; raises `StoreError` for what is nothing, but near a suite's name."""
    folder, suite = folder_of(where, results)
    meant = None if suite or folder.exists() else did_you_mean(str(where), bundled_suites())
    if meant:
        raise StoreError(f"{where}: found no such folder; expected records, or a suite; {meant}")
    return folder, suite


def folder_of(where: Path, results: Path = Path("results")) -> tuple[Path, Suite | None]:
    """A folder of records as it is; for a suite, that of its records, and the suite.

    For a model that of its run without a suite: of the quick one where there is no other. Raises
    `StoreError` for a model without one.
    """
    from qbench.plan.suite.model_names import names_model, names_of_results
    from qbench.plan.suite.written import shipped

    named = str(where)
    if names_model(named):
        found = [results / name for name in names_of_results(named) if (results / name).is_dir()]
        if found:
            return found[0], None
        if where.is_dir() or ":" in named:
            raise StoreError(
                f"{named}: found a model, and no records of it below {results}; expected those of"
                f" `qbench run {named}`, or the name of a folder of records"
            )
    if where.is_dir() or not (where.suffix in {".yaml", ".yml"} or shipped(where)):
        return where, None
    from qbench.plan.suite.suite import load_suite

    suite = load_suite(where)
    return results / suite.name, suite


def of_model(records: Sequence[Record], where: str, folder: Path) -> Sequence[Record]:
    """Where a model was named, its own records: one of the same name may have run there too.

    Raises `StoreError` where all are of such a one.
    """
    from qbench.plan.suite.model_names import names_model
    from qbench.sources.models.resolve import parse_model

    if not records or not names_model(where):
        return records
    try:
        model = parse_model(where, base=Path.cwd())
    except ModelError:
        return records
    meant = (model.kind, model.location)
    own = [one for one in records if (one.cell.model.kind, one.cell.model.location) == meant]
    if not own:
        others = ", ".join(dict.fromkeys(one.cell.model.source for one in records))
        raise StoreError(
            f"{where}: found only records of another model of that name in {folder}: {others};"
            f" expected those of `qbench run {where}`, or the folder's name"
        )
    return own


def load_folder(folder: Path, name: str, *, model: str = "") -> Side:
    """The newest records below a folder, under a name; raises as `load_side` does.

    Of those of a model that is named, its own.
    """
    records, unreadable = read_newest(folder)
    notes = tell_unreadable(unreadable)
    real = without_rehearsals(of_model(records, model, folder), str(folder))
    return _newest_of_one_place(name, real, str(folder), notes)


def load_baseline(path: Path, suite: str) -> Side:
    """A suite's baseline: its file, a folder that holds `<suite>.json` or `.json.gz`, or records.

    Each may stand as git knows it, `REV:PATH`. Raises `UsageError` where there is none.
    """
    if names_revision(str(path)):
        return _of_revision(committed(str(path), suite))
    if path.is_dir():
        for suffix in SUFFIXES:
            file = path / f"{suite}{suffix}"
            if file.is_file():
                return Side(str(file), tuple(read_baseline(file)))
        return load_folder(path, str(path))
    return Side(str(path), tuple(read_baseline(path)))


def load_old(
    baseline: Path | None,
    suite: str,
    results: Path,
    *,
    against: str | None = None,
    from_git: str | None = None,
    device_kind: str | None = None,
) -> Side | None:
    """The old side of a gate; None where none is named.

    `against` and `from_git` are revisions, and `baseline` then is the file or folder that is looked
    at as it was at that revision: see `at_revision`. Raises `UsageError` where there is none.
    """
    if against is not None and from_git is not None:
        raise UsageError(
            "--against and --baseline-from-git: found both; expected one of them: the former looks"
            " at records on disk first, the latter at what is committed alone"
        )
    revision = from_git if against is None else against
    if revision is not None:
        measured = against is not None
        return _of_revision(
            at_revision(
                revision, suite, results, baseline, measured=measured, device_kind=device_kind
            )
        )
    if baseline is None:
        return None
    side = load_baseline(baseline, suite)
    return side if side.against else replace(side, against=Against(side.name))


def _of_revision(found: Found) -> Side:
    name = found.against.name
    real = without_rehearsals(found.records, name)
    side = _newest_of_one_place(name, real, name, found.notes)
    return replace(side, against=found.against)


def _newest_of_one_place(
    name: str, records: Sequence[Record], where: str, notes: Sequence[str]
) -> Side:
    """The newest record of each thing; raises `UsageError` for several suites or devices."""
    selection = select(records)
    if not selection.records:
        raise StoreError(f"{where}: no records there; `qbench run SUITE` makes some")
    places = dict.fromkeys(
        f"{record.suite}/{record.environment.device_kind}" for record in selection.records
    )
    if len(places) > 1:
        raise UsageError(
            f"{where}: found records of {len(places)} suites or devices ({', '.join(places)});"
            " expected those of one; name its folder"
        )
    told = (f"{where}: {note}" for note in left_out(selection))
    return Side(name, selection.records, (*notes, *told))


def without_rehearsals(records: Sequence[Record], where: str) -> list[Record]:
    """The real records; raises `UsageError` where there are those of rehearsals alone."""
    real = [record for record in records if not record.rehearsal]
    if records and not real:
        raise UsageError(
            f"{where}: found the records of a rehearsal, whose numbers are those of small"
            " replacements; expected real ones: `qbench run SUITE` takes them"
        )
    return real


def _cell(where: str, results: Path) -> Side:
    if not results.is_dir():
        remedy = "check the path, or name the folder with --results"
        raise UsageError(
            f"{where}: no such folder, baseline or suite, and no folder {results} to look for a"
            f" cell of that name in; {did_you_mean(where, bundled_suites()) or remedy}"
        )
    records, unreadable = read_newest(results)
    found = [
        record
        for record in records
        if not record.rehearsal and picks(where, (record.cell.slug, record.cell.label))
    ]
    cells = dict.fromkeys(record.cell.slug for record in found)
    if not cells:
        known = dict.fromkeys(record.cell.label for record in records)
        hint = (
            nearest_words(where, [*known, *bundled_suites()])
            or f"there are the cells {', '.join(known) or 'none'}"
        )
        raise UsageError(f"{where}: no such folder, baseline or suite, nor a cell of it; {hint}")
    if len(cells) > 1:
        raise UsageError(
            f"{where}: found {len(cells)} cells ({', '.join(cells)}); expected one; name it in full"
        )
    return _newest_of_one_place(where, found, where, tell_unreadable(unreadable))
