"""Predicted against measured: static bytes, the peak of inference, the peak of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Column, Figure, Heading, Row, Table, bullets
from qbench.core.units import counted
from qbench.report.cell_row import cell_row
from qbench.report.figures import pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

TITLE = "Predicted against measured"
_COLUMNS = (
    Column("what", "of", "text"),
    Column("predicted", "predicted", "bytes", shares_unit=True),
    Column("measured", "measured", "bytes", shares_unit=True),
    Column("difference", "measured less predicted", "change", decimals=2),
)
_ON_CPU = (
    "On a CPU the tensors that live at once are counted, to the byte; what a kernel takes within"
    " one operation is not seen, and neither counted nor predicted here. What the process takes is"
    " told among the details: of a small model it is mostly the libraries' own."
)
_ON_CUDA = (
    "On a GPU measured peaks are the allocator's: kernels' own workspaces, allocations rounded up"
    " to 512 bytes and what a kernel takes within one operation are in them."
)


def predicted_table(records: TableRecords) -> Table:
    """One row for each thing of a cell that was both predicted and measured.

    Static bytes have a row only where they differ.
    """
    rows = [row for cell in records.every for row in _rows(cell)]
    return Table(TITLE, "cell", _COLUMNS, tuple(rows))


def predicted_parts(records: TableRecords, *, several: bool) -> list[Part]:
    """Parts of the page; none where nothing was predicted. `several`: of more than one table."""
    table = predicted_table(records)
    words = _static_words(records)
    if not table.rows and not words:
        return []
    where = f": {records.model} on {records.device}" if several else ""
    notes = bullets([*words, *_device_words(records, table)])
    return [Heading(f"{TITLE}{where}"), *([table] if table.rows else []), notes]


def _rows(cell: CellRecords) -> Iterator[Row]:
    static = _row(cell, "static bytes", cell.of("footprint"), *_STATIC)
    if static is not None and not _is_exact(static):
        yield static
    for slug in dict.fromkeys(record.item.slug for record in cell.of("memory")):
        found = _row(
            cell,
            f"inference {slug}",
            cell.of("memory", slug),
            "memory.peak.predicted",
            "memory.peak.inference",
        )
        if found is not None:
            yield found
    training = _training_row(cell)
    if training is not None:
        yield training


_STATIC = ("memory.static.predicted", "memory.static")


def _row(
    cell: CellRecords, what: str, records: Sequence[Record], predicted: str, measured: str
) -> Row | None:
    """None unless both are there."""
    return _made(cell, what, pool(records, predicted).figure, pool(records, measured).figure)


def _training_row(cell: CellRecords) -> Row | None:
    """Of a step; where no record holds a prediction of all, what was counted and the activations.

    Older records predict the activations alone: their peak less what is unexplained.
    """
    records = cell.of("training")
    measured = pool(records, "training.memory.peak").figure
    predicted = pool(records, "training.memory.peak_predicted").figure
    unexplained = pool(records, "training.memory.unexplained").figure
    if predicted.value is None and None not in {measured.value, unexplained.value}:
        predicted = Figure((measured.value or 0) - (unexplained.value or 0))
    return _made(cell, "training step", predicted, measured)


def _made(cell: CellRecords, what: str, predicted: Figure, measured: Figure) -> Row | None:
    if not predicted.value or measured.value is None:
        return None
    difference = Figure(measured.value / predicted.value - 1)
    figures = (Figure(word=what), Figure(predicted.value), Figure(measured.value), difference)
    return cell_row(cell, figures)


def _is_exact(row: Row) -> bool:
    return row.figures[1].value == row.figures[2].value


def _static_words(records: TableRecords) -> list[str]:
    """In how many cells the static bytes are the predicted ones, to the byte."""
    rows = [
        row
        for cell in records.every
        if (row := _row(cell, "static bytes", cell.of("footprint"), *_STATIC)) is not None
    ]
    exact = sum(map(_is_exact, rows))
    if not rows:
        return []
    if exact == len(rows):
        return [f"Static bytes: equal to the byte in {counted(exact, 'cell')}, that is in all."]
    return [f"Static bytes: equal to the byte in {exact} of {counted(len(rows), 'cell')}."]


def _device_words(records: TableRecords, table: Table) -> list[str]:
    shown = {figure.word or "" for figure in table.column("what")}
    if not shown:
        return []
    on_cpu = any(
        record.environment.device_type == "cpu" for cell in records.every for record in cell.records
    )
    return [_ON_CPU if on_cpu else _ON_CUDA]
