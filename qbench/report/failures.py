"""What was not measured and what a reader is warned of, each said once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.measures.sensitivity.definitions import OF_TABLE
from qbench.report.figures import finite_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, Selection, TableRecords
    from qbench.core.record import Record

ALL_MEASUREMENTS = "all measurements"
_OF_REFERENCE = tuple(one.name.rstrip("*") for one in OF_TABLE)
"""Of the reference alone: that other cells have none is no gap."""
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Failure:
    """Records of one cell that are not `ok` for the same reason."""

    cell: str
    what: str
    """The measurements and items that are missing for it."""
    status: str
    phase: str | None
    reason: str
    log_tail: str | None
    """The longest of their logs' tails."""


@dataclass(frozen=True)
class Warned:
    """A text that a reader must know, with all the places it holds for."""

    text: str
    places: tuple[tuple[str, tuple[str, ...]], ...]
    """Each cell, with its items that carry the text."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells it holds for."""
        return tuple(cell for cell, _ in self.places)

    def holds_for_all(self, selection: Selection) -> bool:
        """Whether it holds for all of several cells, so that they need no naming."""
        return len(selection.cells) > 1 and len(self.places) == len(selection.cells)


def failures(selection: Selection) -> list[Failure]:
    """What failed, was skipped or has no record; that of a cell with the same reason together."""
    found = []
    for table in selection.tables:
        for cell in table.every:
            found += _cell_failures(cell)
            found += _missing_records(table, cell)
    return found


def is_whole(table: TableRecords, cell: CellRecords) -> bool:
    """Whether a cell has a record of everything that others of its kind have, all `ok`."""
    failed = any(record.status != "ok" for record in cell.records)
    return not failed and not _missing_records(table, cell)


def _missing_records(table: TableRecords, cell: CellRecords) -> list[Failure]:
    """Items that other cells of its kind have a record of and this one has none of."""
    kind = _kind(cell)
    wanted = dict.fromkeys(
        _item(record) for other in table.every if _kind(other) == kind for record in other.records
    )
    taken = {_item(record) for record in cell.records}
    missing = [" ".join(item) for item in wanted if item not in taken]
    if not missing:
        return []
    reason = "there is no record: not run yet, or interrupted; run the suite again"
    return [Failure(cell.place, ", ".join(missing), "missing", None, reason, None)]


def _kind(cell: CellRecords) -> tuple[object, ...]:
    """What decides which items a cell has: its tuning and deployment, and a quantized cache."""
    tuned = None if cell.tuning is None else cell.tuning.method
    return tuned, cell.deploy, cell.records[0].cell.kv_cache is not None


def _item(record: Record) -> tuple[str, str]:
    return record.item.measurement, record.item.slug


def _cell_failures(cell: CellRecords) -> list[Failure]:
    alike: dict[tuple[str, str | None, str], list[Record]] = {}
    for record in cell.records:
        if record.status != "ok":
            reason = record.reason or "no reason was recorded"
            alike.setdefault((record.status, record.phase, reason), []).append(record)
    found = []
    for (status, phase, reason), records in alike.items():
        tails = [record.log_tail for record in records if record.log_tail]
        tail = max(tails, key=len, default=None)
        everything = len(records) == len(cell.records) and not cell.is_training
        what = ALL_MEASUREMENTS if everything else _name(records, cell)
        found.append(Failure(cell.place, what, status, phase, reason, tail))
    return found


def _name(records: Sequence[Record], cell: CellRecords) -> str:
    """Measurements by name; their items and processes too where only some of them failed."""
    parts = []
    for measurement in dict.fromkeys(record.item.measurement for record in records):
        failed = [record for record in records if record.item.measurement == measurement]
        if len(failed) == len(cell.of(measurement)):
            parts.append(measurement)
            continue
        for slug in dict.fromkeys(record.item.slug for record in failed):
            times = sum(record.item.slug == slug for record in failed)
            taken = len(cell.of(measurement, slug))
            processes = f" ({times} of {taken} processes)" if times < taken else ""
            parts.append(f"{measurement} {slug}{processes}")
    return ", ".join(parts)


def valueless(selection: Selection) -> list[Warned]:
    """Reasons why `ok` records hold metrics without a value, with the cells and metrics."""
    places: dict[str, dict[str, dict[str, None]]] = {}
    for cell in selection.cells:
        for record in cell.records:
            for metric in record.metrics:
                if not cell.reference and metric.name.startswith(_OF_REFERENCE):
                    continue
                if record.status == "ok" and finite_value(metric) is None:
                    reason = metric.reason or "the value is not a finite number"
                    cells = places.setdefault(reason, {})
                    cells.setdefault(cell.place, {})[metric.name] = None
    return _warned(places)


def warnings(selection: Selection) -> list[Warned]:
    """Warnings of all records, each text once, with the cells and items.

    Those of timings that differ in nothing but numbers are said once, with ranges.
    """
    places: dict[str, dict[str, dict[str, None]]] = {}
    texts: dict[str, list[str]] = {}
    for cell in selection.cells:
        for record in cell.records:
            timed = record.item.measurement in ("latency", "kernels")
            for text in record.warnings:
                pattern = pattern_of(text) if timed else text
                texts.setdefault(pattern, []).append(text)
                cells = places.setdefault(pattern, {})
                cells.setdefault(cell.place, {})[" ".join(_item(record))] = None
    return _warned({in_one_text(texts[pattern]): cells for pattern, cells in places.items()})


def pattern_of(text: str) -> str:
    """What texts that differ in nothing but numbers have in common."""
    return _NUMBER.sub("#", text)


def in_one_text(texts: Sequence[str]) -> str:
    """One text for several of one pattern: `12-34 %` for `12 %` and `34 %`."""
    if len(set(texts)) == 1:
        return texts[0]
    columns = iter(list(zip(*(_NUMBER.findall(text) for text in texts), strict=True)))

    def _range(_: re.Match[str]) -> str:
        numbers = sorted(next(columns), key=float)
        return numbers[0] if numbers[0] == numbers[-1] else f"{numbers[0]}-{numbers[-1]}"

    return _NUMBER.sub(_range, texts[0])


def _warned(places: dict[str, dict[str, dict[str, None]]]) -> list[Warned]:
    return [
        Warned(text, tuple((cell, tuple(items)) for cell, items in cells.items()))
        for text, cells in places.items()
    ]
