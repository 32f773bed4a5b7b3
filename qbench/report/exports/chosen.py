"""What the exports of records write: cells with their newest real records of one suite and device.

A pure function of the records. What it left out, and why, is told beside the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from qbench.compare.selection import select
from qbench.core.errors import StoreError, UsageError
from qbench.core.units import counted
from qbench.precisions.names import nearest_words, picks
from qbench.report.summary import left_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record


@dataclass(frozen=True)
class ExportedCell:
    """A cell, and the table that it stands in."""

    table: TableRecords
    cell: CellRecords

    @property
    def reference(self) -> CellRecords | None:
        """The cell that it is compared with: None for the reference itself, or where none is."""
        return None if self.cell.reference else self.table.reference


@dataclass(frozen=True)
class Chosen:
    """The cells to export, all of one suite and one device."""

    suite: str
    device: str
    """Readable name of the device: `NVIDIA H200`."""
    device_kind: str
    """The same as a folder name: `nvidia-h200`."""
    cells: tuple[ExportedCell, ...]
    """In the order of a report, each model's untuned cells first, trainings and tuned ones after.
    What was skipped because it is of other checkpoints is not among them."""
    notes: tuple[str, ...] = ()
    """What was left out of the records, a sentence each."""

    @property
    def records(self) -> tuple[Record, ...]:
        """The records of all cells."""
        return tuple(record for one in self.cells for record in one.cell.records)


def choose(
    records: Sequence[Record],
    where: str,
    *,
    only: Sequence[str] = (),
    device: str | None = None,
) -> Chosen:
    """The cells that patterns pick, all for none, with the newest records of each thing.

    `where` is what a person named, for messages; `device` a device's name or kind, or a pattern of
    either, which is needed where records of several lie together. Raises `UsageError` where only a
    rehearsal's records are there, where there are several suites or devices, and for a pattern that
    picks nothing.
    """
    real = [record for record in records if not record.rehearsal]
    if records and not real:
        raise UsageError(
            f"{where}: found the records of a rehearsal, whose numbers are those of small"
            " replacements and are not exported; expected real ones: `qbench run SUITE` takes them"
        )
    on_device = [record for record in real if device is None or _is_on(record, device)]
    if real and not on_device:
        known = _listed(record.environment.device_kind for record in real)
        raise UsageError(f"--device {device!r}: found no such device in {where}; there is {known}")
    selection = select(on_device)
    if not selection.records:
        raise StoreError(f"{where}: no records there; `qbench run SUITE` makes some")
    suites = dict.fromkeys(record.suite for record in selection.records)
    if len(suites) > 1:
        raise UsageError(
            f"{where}: found records of {counted(len(suites), 'suite')} ({', '.join(suites)});"
            " expected those of one; name its folder"
        )
    kinds = dict.fromkeys(record.environment.device_kind for record in selection.records)
    if len(kinds) > 1:
        raise UsageError(
            f"{where}: found records of {counted(len(kinds), 'device')} ({', '.join(kinds)});"
            " expected those of one, as figures of several never share a column; choose one with"
            f" --device {next(iter(kinds))}"
        )
    every = [
        ExportedCell(table, cell)
        for table in selection.tables
        for cell in (*table.cells, *table.tuned)
    ]
    environment = selection.records[0].environment
    rehearsed = len(records) - len(real)
    told = [f"{counted(rehearsed, 'record')} of a rehearsal left out."] if rehearsed else []
    return Chosen(
        suite=next(iter(suites)),
        device=environment.device,
        device_kind=environment.device_kind,
        cells=tuple(_picked(every, only, where)),
        notes=(*told, *left_out(selection)),
    )


def _is_on(record: Record, device: str) -> bool:
    told = (record.environment.device_kind, record.environment.device)
    return any(fnmatchcase(one, device) for one in told)


def _picked(
    every: Sequence[ExportedCell], patterns: Sequence[str], where: str
) -> list[ExportedCell]:
    """Those that a pattern picks by one of a cell's names; raises `UsageError` for one of none."""
    names = [one.cell.records[0].cell.names for one in every]
    for pattern in patterns:
        if not any(picks(pattern, group) for group in names):
            raise UsageError(f"--only {pattern!r}: {_no_such_cell(pattern, every, where)}")
    return [
        one
        for one, group in zip(every, names, strict=True)
        if not patterns or any(picks(pattern, group) for pattern in patterns)
    ]


def one_cell(chosen: Chosen, name: str | None, where: str) -> ExportedCell:
    """The cell of that label or slug, else the only one that it picks as a pattern.

    Without a name the only one there is. Raises `UsageError` where there are none or several.
    """
    found = list(chosen.cells)
    if name is not None:
        found = [one for one in chosen.cells if name in (one.cell.label, one.cell.slug)]
        found = found or [
            one for one in chosen.cells if picks(name, one.cell.records[0].cell.names)
        ]
    if not found:
        raise UsageError(f"CELL {name!r}: {_no_such_cell(name or '', chosen.cells, where)}")
    if len(found) > 1:
        given = where if name is None else f"CELL {name!r}"
        raise UsageError(
            f"{given}: found {counted(len(found), 'cell')} ({', '.join(_labels(found))}); expected"
            " one; name it behind the folder, by its label or slug"
        )
    return found[0]


def _no_such_cell(name: str, cells: Sequence[ExportedCell], where: str) -> str:
    labels = _labels(cells)
    hint = nearest_words(name, labels) or f"there is {', '.join(labels)}"
    return f"found no such cell in {where}; {hint}"


def _labels(cells: Iterable[ExportedCell]) -> list[str]:
    """What cells are named by: their labels, or their slugs where several share a label."""
    found = [(one.cell.label, one.cell.slug) for one in cells]
    labels = [label for label, _ in found]
    return labels if len(set(labels)) == len(labels) else [slug for _, slug in found]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
