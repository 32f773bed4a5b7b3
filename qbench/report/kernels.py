"""The linear layers by themselves: their times over rows, ratios to bf16, floors and kernels."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from qbench.compare.crossover import crossover
from qbench.core.number_types import BF16, FP32
from qbench.core.page import Column, Figure, Heading, Row, Table, Words, bullets
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.predict.bf16 import is_bf16
from qbench.report.cell_row import called_in_words, cell_row
from qbench.report.crossovers import (
    RATIOS,
    by_rows,
    crossover_lines,
    crossover_of,
    kernel_of,
    kernel_words,
    sizes_of,
)
from qbench.report.figures import NO_VALUE, NOT_MEASURED, pool, with_interval
from qbench.report.legend import short_legend, unlike_served_in_short, unlike_served_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.crossover import Crossover
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

TITLE = "From which batch on a format is slower than bf16"
TIME, FLOOR, BF16_TIME = "kernels.time", "kernels.floor", f"kernels.time.{BF16}"
_COLUMNS = (
    Column(TIME, "all linear layers", "seconds", shares_unit=True),
    Column(BF16_TIME, "in bf16", "seconds", shares_unit=True),
    Column(RATIOS[BF16], "of bf16's time", "number", decimals=2, intervals=True),
    Column(f"{RATIOS[BF16]}:lowest", "lowest process", "number", decimals=2),
    Column(f"{RATIOS[BF16]}:highest", "highest process", "number", decimals=2),
    Column(f"kernels.time.{FP32}", "in fp32", "seconds", shares_unit=True),
    Column(RATIOS[FP32], "of fp32's time", "number", decimals=2),
    Column(FLOOR, "floor", "seconds", shares_unit=True),
    Column("kernels.floor_share", "floor reached", "percent"),
    Column("kernels.kernel", "kernel", "text"),
    Column("kernels.operators", "operators", "text"),
)
_ABOVE = "above 1 the format is slower"
_HOW_TO_READ = (
    "Time of all linear layers but the head over that of plain layers of the same sizes in bf16,"
    " timed in turns in the same process, by the rows of their inputs: the batch in decode, batch"
    f" times prompt tokens in prefill; {_ABOVE}."
)


def kernel_parts(records: TableRecords, charts: Sequence[Part] = ()) -> list[Part]:
    """The answer in sentences, the pictures, and the ratios; nothing where nobody timed layers."""
    table = ratio_table(records)
    if not table.rows:
        return []
    return [
        Heading(TITLE, 3),
        bullets(crossover_lines(records)),
        *charts,
        table,
        Words(_HOW_TO_READ),
        bullets(unlike_served_lines(table)),
    ]


def kernel_overview(records: TableRecords) -> list[Part]:
    """The same for a terminal."""
    table = ratio_table(records)
    if not table.rows:
        return []
    told = [short_legend(table), *unlike_served_in_short(table)]
    narrow = table.with_columns(range(len(table.columns) - 1))  # the lines name the kernel
    return [
        Heading(TITLE),
        bullets(crossover_lines(records)),
        narrow,
        bullets(filter(None, [f"{table.title}; {_ABOVE}", *told]), "quiet"),
    ]


def ratio_table(records: TableRecords) -> Table:
    """A row a cell, a column a number of rows: the time over that of bf16."""
    timed = {cell.label: by_rows(cell) for cell in records.cells}
    every = sorted({rows for found in timed.values() for rows in found})
    ratio = RATIOS[BF16]
    columns = (
        *(Column(f"{ratio}:{rows}", str(rows), "number", decimals=2) for rows in every),
        Column("kernels.slower_from", "slower from", "text", right=True),
        Column("kernels.kernel", "kernel", "text"),
    )
    made = []
    for cell in records.cells:
        taken = timed[cell.label]
        if not taken:
            continue
        figures = [with_interval(taken.get(rows, []), ratio) for rows in every]
        found = None if is_bf16(cell.records[0].cell.precision) else crossover_of(cell)
        made.append(
            cell_row(
                cell, (*figures, _rows_figure(found), Figure(word=kernel_words(cell) or NO_VALUE))
            )
        )
    return Table("Time over that of bf16, by rows", "precision", columns, tuple(made))


def kernel_tables(records: TableRecords) -> list[Table]:
    """For the details: times, floors and kernels of each cell by rows, and of its sizes."""
    tables = []
    for cell in records.cells:
        rows = tuple(
            Row(str(number), reference=False, figures=_figures(taken))
            for number, taken in by_rows(cell).items()
        )
        if rows:
            title = f"Linear layers by rows: {called_in_words(cell.records[0].cell) or cell.label}"
            tables.append(Table(title, "rows", _COLUMNS, rows, stub_right=True))
    sizes = _size_table(records)
    return [*tables, sizes] if sizes.rows else tables


def _rows_figure(found: Crossover | None) -> Figure:
    if found is None:
        return Figure(word=NOT_MEASURED)
    if found.kind == "from":
        return Figure(word=str(found.rows))
    return Figure(word="all" if found.kind == "always" else "none", reason=found.reason)


def _operators(taken: Sequence[Record]) -> Figure:
    names = dict.fromkeys(
        str(name)
        for record in taken
        for one in sizes_of(record)
        for name in as_list(one.get("operators"))
    )
    return Figure(word=", ".join(names) or NOT_MEASURED)


def _figures(taken: Sequence[Record]) -> tuple[Figure, ...]:
    ratio = pool(taken, RATIOS[BF16])
    several = ratio.succeeded > 1
    made = {
        RATIOS[BF16]: with_interval(taken, RATIOS[BF16]),
        f"{RATIOS[BF16]}:lowest": _plain(ratio.lowest if several else None),
        f"{RATIOS[BF16]}:highest": _plain(ratio.highest if several else None),
        "kernels.kernel": kernel_of(taken),
        "kernels.operators": _operators(taken),
    }
    return tuple(made.get(one.key) or pool(taken, one.key).figure for one in _COLUMNS)


def _plain(value: float | None) -> Figure:
    return Figure(value) if value is not None else Figure(word=NOT_MEASURED)


def _size_table(records: TableRecords) -> Table:
    """A row for each size of layer of each cell."""
    columns = (
        Column("layers", "layers", "exact"),
        Column("held_bytes", "held by one", "bytes"),
        Column("kernels.slower_from", "slower than bf16 from", "text", right=True),
    )
    rows = []
    for cell in records.cells:
        found = _by_size(cell)
        for size, (layers, held, ratios) in found.items():
            own = None if is_bf16(cell.records[0].cell.precision) else crossover(ratios)
            figures = (_plain(layers), _plain(held), _rows_figure(own))
            rows.append(Row(f"{cell.label} {size}", reference=cell.reference, figures=figures))
    return Table("Linear layers by size", "precision, outputs x inputs", columns, tuple(rows))


def _by_size(
    cell: CellRecords,
) -> dict[str, tuple[float | None, float | None, dict[int, float]]]:
    """Of each size its layers, the bytes that one holds, and the ratio to bf16 by rows."""
    sizes: dict[str, Mapping[str, object]] = {}
    ratios: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for rows, taken in by_rows(cell).items():
        for record in taken:
            for one in sizes_of(record):
                size = str(one.get("size"))
                sizes.setdefault(size, one)
                seconds = as_mapping(one.get("seconds"))
                ratio = _ratio(as_number(seconds.get("own")), as_number(seconds.get(BF16)))
                if ratio is not None:
                    ratios[size][rows].append(ratio)
    return {
        size: (
            as_number(one.get("layers")),
            as_number(one.get("held_bytes")),
            {rows: median(each) for rows, each in ratios[size].items()},
        )
        for size, one in sizes.items()
    }


def _ratio(own: float | None, other: float | None) -> float | None:
    if own is None or other is None or not (own > 0 and other > 0):
        return None
    ratio = own / other
    return ratio if 0 < ratio < math.inf else None
