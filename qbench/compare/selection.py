"""Which records a report shows, and how they fall into tables and rows.

A results folder keeps everything that was ever measured. A report shows the newest of each thing,
never two protocols, devices or suites in one table.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from qbench.compare.comparable import fingerprint
from qbench.compare.served import with_served
from qbench.core.spec import Deployment
from qbench.core.unchecked import as_mapping
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.record import Record
    from qbench.core.spec import TuningRef

_LAST = 1_000
"""Behind any precision's order."""
METHOD_ORDER = ("full", "qat", "lora")
"""Order of the ways to tune."""
DEPLOYMENT_ORDER: tuple[str, ...] = get_args(Deployment)


@dataclass(frozen=True)
class CellRecords:
    """The newest records of one cell on one device."""

    label: str
    """Names the row in its table: the precision's label, or the tuning's with its deployment."""
    place: str
    """Names the cell within the whole report: with the model where there are several."""
    slug: str
    reference: bool
    records: tuple[Record, ...]

    @property
    def tuning(self) -> TuningRef | None:
        """How its model was tuned; None for an untuned one."""
        return self.records[0].cell.tuning

    @property
    def deploy(self) -> Deployment | None:
        """How its tuned model is served; None for an untuned cell and for the training itself."""
        return self.records[0].cell.deploy

    @property
    def is_training(self) -> bool:
        """Whether it is the training itself, which no model is served in."""
        return self.records[0].cell.is_training

    @property
    def faulty(self) -> bool:
        """Whether layers of the loaded model do not compute what they hold."""
        return any(as_mapping(one.details.get("loaded")).get("faults") for one in self.records)

    def of(self, measurement: str, item: str | None = None) -> list[Record]:
        """The records of a measurement (of one of its items), by repeat, else as they came.

        A footprint also has the figures of the format as it is served.
        """
        found = [
            with_served(record) if measurement == "footprint" else record
            for record in self.records
            if record.item.measurement == measurement and item in (None, record.item.slug)
        ]
        return sorted(found, key=lambda record: record.item.repeat)


@dataclass(frozen=True)
class TableRecords:
    """The cells that stand in one table: of one suite, one device and one model."""

    suite: str
    device: str
    model: str
    cells: tuple[CellRecords, ...]
    """Those of the untuned model, the reference first."""
    tuned: tuple[CellRecords, ...] = ()
    """The trainings and what is served of them: by arm and seed, each training first."""
    misfits: tuple[CellRecords, ...] = ()
    """Where checkpoints stand beside their original, what was skipped because it is for the one and
    not for the other: they have no rows."""

    @property
    def title(self) -> str:
        """Names the table."""
        return f"{self.suite}: {self.model} on {self.device}"

    @property
    def every(self) -> tuple[CellRecords, ...]:
        """All cells, the untuned ones first, and last those without a row."""
        return (*self.cells, *self.tuned, *self.misfits)

    @property
    def reference(self) -> CellRecords | None:
        """The cell that the others are compared with; None if it left no record."""
        return next((cell for cell in self.cells if cell.reference), None)


@dataclass(frozen=True)
class Selection:
    """What a report shows of the records it was given, and what it passed over."""

    tables: tuple[TableRecords, ...]
    protocol: str | None
    """The only protocol in the tables; None if there are no records."""
    older: int
    """Records passed over because a newer one of the same thing exists."""
    other_protocols: tuple[tuple[str, int], ...]
    """Versions of the protocol that are left out, with their number of records."""
    other_weights: int = 0
    """Records left out because a newer one of their cell is of other weights."""

    @property
    def cells(self) -> tuple[CellRecords, ...]:
        """The cells of all tables, tuned ones too."""
        return tuple(cell for table in self.tables for cell in table.every)

    @property
    def records(self) -> tuple[Record, ...]:
        """The records of all tables."""
        return tuple(record for cell in self.cells for record in cell.records)


def select(records: Sequence[Record]) -> Selection:
    """The newest protocol's newest record of each cell, item and repeat, by table and row."""
    versions: Counter[str] = Counter()
    for record in records:
        versions[record.protocol] += 1 + record.older
    if not versions:
        return Selection((), None, 0, ())
    newest, *others = sorted(versions, key=_version_order, reverse=True)
    candidates = [record for record in records if record.protocol == newest]
    alike = _of_the_newest_weights(candidates)
    chosen = _newest(alike)
    return Selection(
        tables=_tables(chosen),
        protocol=newest,
        older=_count(alike) - len(chosen),
        other_protocols=tuple((version, versions[version]) for version in others),
        other_weights=_count(candidates) - _count(alike),
    )


def _count(records: Iterable[Record]) -> int:
    """How many they are, with those that they stand for."""
    return sum(1 + record.older for record in records)


def _version_order(version: str) -> list[tuple[int, int, str]]:
    """Numbers compare as numbers: protocol 10 is newer than 9."""
    parts = re.findall(r"\d+|[^\d.]+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _of_the_newest_weights(records: list[Record]) -> list[Record]:
    """Without those of a cell that are of other weights than its newest record.

    A model trained on in place, or another of the same name, would else share a row with it.
    """
    newest: dict[tuple[str, ...], str | None] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        found = fingerprint(record)
        if found is not None:
            newest[_cell_key(record)] = found
    return [
        record for record in records if fingerprint(record) in (None, newest.get(_cell_key(record)))
    ]


def _newest(records: list[Record]) -> list[Record]:
    """The newest record of each thing, without repeats that were taken under other conditions."""
    last: dict[tuple[str, ...], dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        thing = (*_cell_key(record), record.item.measurement, record.item.slug)
        last.setdefault(thing, {})[record.item.repeat] = record
    chosen: set[int] = set()
    for repeats in last.values():
        conditions = pooled_by(max(repeats.values(), key=lambda record: record.started_at))
        chosen.update(id(one) for one in repeats.values() if pooled_by(one) == conditions)
    return [record for record in records if id(record) in chosen]


def pooled_by(record: Record) -> str:
    """All that decides the numbers but the repeat: only alike records are pooled."""
    return json.dumps(_without_repeat(record.identity), sort_keys=True, default=str)


def _without_repeat(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_repeat(each) for key, each in value.items() if key != "repeat"}
    return value


def _table_key(record: Record) -> tuple[str, str, str]:
    # A checkpoint that is quantized already stands beside the model that it was made of.
    model = record.cell.model
    return record.suite, record.environment.device_kind, model.original or model.name


def _cell_key(record: Record) -> tuple[str, ...]:
    return (*_table_key(record), record.cell.slug)


def _tables(records: list[Record]) -> tuple[TableRecords, ...]:
    grouped: dict[tuple[str, str, str], dict[str, list[Record]]] = {}
    for record in records:
        cells = grouped.setdefault(_table_key(record), {})
        cells.setdefault(record.cell.slug, []).append(record)
    several = [len(set(column)) > 1 for column in zip(*grouped, strict=True)]
    tables = []
    for key, cells in grouped.items():
        suite, _, model = key
        device = next(iter(cells.values()))[0].environment.device
        shown = zip((suite, device, model), several, strict=True)
        prefix = [part for part, differs in shown if differs]
        every = _rows(cells, prefix)
        misfits = tuple(row for row in every if _is_misfit(row, every))
        rows = tuple(row for row in every if row not in misfits)
        tables.append(
            TableRecords(
                suite,
                device,
                model,
                misfits=misfits,
                cells=tuple(row for row in rows if row.tuning is None),
                tuned=tuple(
                    sorted((row for row in rows if row.tuning is not None), key=_tuned_order)
                ),
            )
        )
    return tuple(tables)


def _rows(cells: dict[str, list[Record]], prefix: list[str]) -> tuple[CellRecords, ...]:
    reference = _reference_slug(records for records in cells.values())
    rows = []
    for slug, records in cells.items():
        cell = records[0].cell
        label = cell.label
        if cell.model.original is not None:
            label = f"{cell.model.name} ({label})"
        place = " / ".join([*prefix, label])
        rows.append(CellRecords(label, place, slug, slug == reference, tuple(records)))
    # sorted is stable: within a precision the order of first appearance stays
    return tuple(sorted(rows, key=lambda row: (not row.reference, _rank(row))))


def _is_misfit(row: CellRecords, rows: tuple[CellRecords, ...]) -> bool:
    """Whether it is of an original, for checkpoints alone, among rows of both; or the reverse."""
    made = {one.records[0].cell.model.original is not None for one in rows}
    if len(made) == 1 or any(record.status != "skipped" for record in row.records):
        return False
    cell = row.records[0].cell
    held = precisions().get(cell.precision.name)
    return held is not None and held.takes_quantized != (cell.model.original is not None)


def _reference_slug(cells: Iterable[list[Record]]) -> str | None:
    """The reference by the newest record that names one: suites change their reference."""
    naming = [record for records in cells for record in records if record.reference]
    newest = max(naming, key=lambda record: record.started_at, default=None)
    return newest.cell.slug if newest else None


def _rank(row: CellRecords) -> int:
    return _precision_place(row.records[0].cell.precision.name)


def _tuned_order(row: CellRecords) -> tuple[Any, ...]:
    """By method, precision, arm, seed and deployment, in whatever order the records were read."""
    tuning = row.tuning
    if tuning is None:
        return ()
    return (
        _place(METHOD_ORDER, tuning.method),
        _precision_place(tuning.precision.name),
        _version_order(tuning.arm),
        tuning.arm,
        tuning.seed,
        -1 if row.deploy is None else _place(DEPLOYMENT_ORDER, row.deploy),
    )


def _precision_place(name: str) -> int:
    """By the precision's own order; one that is not there, as a record may name, comes last."""
    held = precisions().get(name)
    return _LAST if held is None else held.order


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)
