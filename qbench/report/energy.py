"""What tokens and trainings draw, and emit at the factor that the user states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import ENERGY_METHOD
from qbench.compare.items import describe_point, items
from qbench.compare.tuned.arms import arms_of
from qbench.core.page import Column, Heading, Row, Table, Words, bullets
from qbench.report.cell_row import cell_row
from qbench.report.figures import in_other_unit, over_seeds, with_interval
from qbench.report.legend import lacking_intervals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.co2 import Co2
    from qbench.compare.selection import TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.page import Figure, Part
    from qbench.core.record import Record

_MILLION = 1e6
_LATENCY = (
    Column("latency.energy", "J a new token", "number", "lower", intervals=True),
    Column("latency.energy.prefill", "J a prompt token", "number", "lower"),
    Column("latency.energy.decode", "J a new token, decode alone", "number", "lower"),
)
TOKENS, TRAINING = "co2.tokens", "co2.training"
"""Of a million new tokens, and of a training: keys of columns and names in an export."""
_CO2_TOKENS = Column(TOKENS, "g CO₂ a million new tokens", "number", "lower", intervals=True)
_SERVED = (Column("serving.energy", "J a new token", "number", "lower", intervals=True),)
_TRAINING = (
    Column("training.energy", "J a token", "number", "lower"),
    Column("training.energy.example", "J an example", "number", "lower"),
    Column("training.energy.total", "J a training", "number", "lower", decimals=0),
)
_OF_TOKENS = {"latency": _LATENCY, "serving": _SERVED}
"""By the measurement: what it tells of tokens, the generated ones first."""
_CO2_TRAINING = Column(TRAINING, "g CO₂ a training", "number", "lower")
_EMITS = frozenset({_CO2_TOKENS.key, _CO2_TRAINING.key})
_HOW = (
    "Energy is that of the whole GPU, or of all processors of the machine, with all else that ran"
    " there and what they draw idle. J a new token is of prefill and decode together, under load of"
    " all that was done in its time. A training is its steps: evaluation, checkpoints and loading"
    " are apart."
)
_EMITTED = (
    "CO₂ is the energy in the table at {factor:g} g a kWh, which the user states ({source}). Fans,"
    " losses of power supplies, cooling of a building (PUE) and the making of the hardware are in"
    " none of it."
)
_AT = "CO₂ is the measured energy at {factor:g} g a kWh, which the user states ({source})."
_NO_SOURCE = "without a source"
_NONE = "There is a factor for CO₂, but no energy: {reason}."
_NOT_SAID = "what the records do not name"
_NOT_MEASURED = "neither latency, nor a server under load, nor a training was measured"


def energy_parts(records: TableRecords, co2: Co2 | None) -> list[Part]:
    """Parts of the page; none where no energy is known and no factor is stated."""
    tables = energy_tables(records, co2)
    if not tables and co2 is None:
        return []
    parts: list[Part] = [Heading("Energy" if co2 is None else "Energy and CO₂", 3)]
    if not tables:
        return [*parts, Words(_NONE.format(reason=_why_none(records)))]
    for table in tables:
        told = lacking_intervals(table)
        parts += [Words(f"{table.title}:"), replace(table, title=""), bullets(told)]
    words = f"Told by {'; '.join(_methods(records))}. {_HOW}"
    if co2 is not None:
        source = co2.source or _NO_SOURCE
        words += f" {_EMITTED.format(factor=co2.grams_per_kwh, source=source)}"
    return [*parts, Words(words)]


def energy_tables(records: TableRecords, co2: Co2 | None) -> list[Table]:
    """One for each point of the latency grid, and one of trainings, as far as energy is known."""
    return [
        *_token_tables(records, "latency", co2),
        *_token_tables(records, "serving", co2),
        *_training_tables(records, co2),
    ]


def token_grams(found: Sequence[Record], measurement: str, co2: Co2) -> Figure:
    """Of a million new tokens, by the records of a cell at one point or under one load."""
    return in_other_unit(with_interval(found, _OF_TOKENS[measurement][0].key), co2.grams(_MILLION))


def training_grams(arm: Arm, co2: Co2) -> Figure:
    """Of a training, the mean over its seeds."""
    return in_other_unit(
        over_seeds(arm.trainings, "training", None, _TRAINING[-1].key), co2.grams(1)
    )


def emitted_parts(records: TableRecords, co2: Co2 | None) -> list[Part]:
    """The grams for a terminal, at the first point of the grid; none without a factor."""
    if co2 is None:
        return []
    tables = []
    for table in (*_token_tables(records, "latency", co2)[:1], *_training_tables(records, co2)):
        kept = [at for at, column in enumerate(table.columns) if column.key in _EMITS]
        if kept:
            tables.append(table.with_columns(kept))
    if not tables:
        return [Words(_NONE.format(reason=_why_none(records)))]
    return [
        *tables,
        Words(_AT.format(factor=co2.grams_per_kwh, source=co2.source or _NO_SOURCE), "quiet"),
    ]


def _token_tables(records: TableRecords, measurement: str, co2: Co2 | None) -> list[Table]:
    """One for each point of the grid, or load, at which energy is known."""
    columns = _OF_TOKENS[measurement]
    tables = []
    for point in items(records, measurement).values():
        rows = []
        for cell in records.cells:
            found = cell.of(measurement, point.item.slug)
            figures = [with_interval(found, one.key) for one in columns]
            if co2 is not None:
                figures.append(token_grams(found, measurement, co2))
            rows.append(cell_row(cell, figures))
        title = describe_point(point) if measurement == "latency" else f"Served, {point.item.slug}"
        every = (*columns, *([_CO2_TOKENS] if co2 is not None else []))
        tables += _told(Table(title, "precision", every, tuple(rows)))
    return tables


def _training_tables(records: TableRecords, co2: Co2 | None) -> list[Table]:
    rows = []
    for arm in arms_of(records):
        figures = [over_seeds(arm.trainings, "training", None, one.key) for one in _TRAINING]
        if co2 is not None:
            figures.append(training_grams(arm, co2))
        rows.append(Row(arm.name, reference=False, figures=tuple(figures)))
    columns = (*_TRAINING, *([_CO2_TRAINING] if co2 is not None else []))
    return _told(Table("Fine-tuning", "arm", columns, tuple(rows)))


def _told(table: Table) -> list[Table]:
    """The columns and rows that have a number; no table where there is none."""
    rows = [row for row in table.rows if any(one.value is not None for one in row.figures)]
    kept = [
        at
        for at in range(len(table.columns))
        if any(row.figures[at].value is not None for row in rows)
    ]
    return [replace(table, rows=tuple(rows)).with_columns(kept)] if kept else []


def _methods(records: TableRecords) -> list[str]:
    """What told the energy, each once."""
    found = (
        str(record.details[ENERGY_METHOD])
        for cell in records.every
        for record in cell.records
        if record.details.get(ENERGY_METHOD) is not None
    )
    return sorted(set(found)) or [_NOT_SAID]


def _why_none(records: TableRecords) -> str:
    """The first reason that a record gives."""
    return next(iter(_reasons(records)), _NOT_MEASURED)


def _reasons(records: TableRecords) -> Iterable[str]:
    for cell in records.every:
        for record in cell.records:
            for name in (_LATENCY[0].key, _SERVED[0].key, _TRAINING[0].key):
                metric = record.metric(name)
                if metric is not None and metric.reason:
                    yield metric.reason
