"""The linear layers by themselves: from how many rows on a format is slower, by which kernel."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from qbench.compare.crossover import crossover
from qbench.core.number_types import BF16, FP32
from qbench.core.page import Column, Figure, Heading, Row, Table, Words, bullets
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.predict.bf16 import is_bf16
from qbench.report.cell_row import called_in_words, cell_row
from qbench.report.figures import NO_VALUE, NOT_MEASURED, pool, with_interval
from qbench.report.legend import short_legend, unlike_served_in_short, unlike_served_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.crossover import Crossover
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

MEASUREMENT = "kernels"
TITLE = "From which batch on a format is slower than bf16"
TIME, FLOOR, BF16_TIME = "kernels.time", "kernels.floor", f"kernels.time.{BF16}"
RATIOS = {BF16: "kernels.ratio", FP32: f"kernels.ratio.{FP32}"}
"""Of the times over those of plain layers in a type."""
_WHOLE = 10
"""Rows from which on no decimal is shown of what was interpolated."""
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


def by_rows(cell: CellRecords) -> dict[int, list[Record]]:
    """The records of a cell by the rows that were timed, the fewest first."""
    found: dict[int, list[Record]] = defaultdict(list)
    for record in cell.of(MEASUREMENT):
        rows = as_number(record.item.params.get("rows"))
        if rows is not None and rows >= 1 and rows.is_integer():
            found[int(rows)].append(record)
    return dict(sorted(found.items()))


def values_by_rows(cell: CellRecords, metric: str) -> dict[int, float]:
    """A metric by rows, the median of its processes, where it is a positive number."""
    found = {rows: pool(taken, metric).figure.value for rows, taken in by_rows(cell).items()}
    return {rows: value for rows, value in found.items() if value is not None and value > 0}


def crossover_of(cell: CellRecords, beside: str = BF16) -> Crossover | None:
    """From how many rows on a cell's layers are slower than plain ones of a type."""
    return crossover(values_by_rows(cell, RATIOS[beside]))


def crossover_lines(records: TableRecords) -> list[str]:
    """A sentence for each cell: from how many rows on it is slower than bf16, and than fp32."""
    lines = []
    for cell in records.cells:
        found = crossover_of(cell)
        if found is None:
            continue
        first = cell.records[0].cell
        name = called_in_words(first) or cell.label
        if is_bf16(first.precision):
            ratios = values_by_rows(cell, RATIOS[BF16]).values()
            lines.append(
                f"{name} is what the others are held against; its own ratio,"
                f" {min(ratios):.2f} to {max(ratios):.2f}, shows how far two timings of the same"
                " products differ."
            )
            continue
        text = f"{name} is {_in_words(found, BF16)}{_undecided(cell, found)}"
        beside = crossover_of(cell, FP32)
        if beside is not None and first.precision.name != FP32:
            text += f"; {_in_words(beside, FP32)}"
        ran = _kernel_words(cell)
        lines.append(f"{text}. Kernel: {ran}." if ran else f"{text}.")
    return lines


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
                cell, (*figures, _rows_figure(found), Figure(word=_kernel_words(cell) or NO_VALUE))
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


def sizes_of(record: Record) -> list[Mapping[str, object]]:
    """What a record holds of each size of layer."""
    return [as_mapping(one) for one in as_list(record.details.get("sizes"))]


def _in_words(found: Crossover, beside: str) -> str:
    if found.kind == "always":
        return f"slower than {beside} at all of {found.measured} rows"
    if found.kind == "never":
        if found.up_to is not None:
            return f"slower than {beside} up to {_listed((found.up_to,))}, not at more"
        if found.earlier:
            return f"slower than {beside} at {_listed(found.earlier)}, not at more"
        return f"not slower than {beside} at any of {found.measured} rows"
    text = f"slower than {beside} from {found.rows} rows on"
    if found.about is not None:
        about = f"{found.about:.{0 if found.about >= _WHOLE else 1}f}"
        text += f" (not at {found.before}; equal at about {about}, interpolated)"
    return text + (f", and at {_listed(found.earlier)} too" if found.earlier else "")


def _undecided(cell: CellRecords, found: Crossover) -> str:
    """Rows from which on it is slower, at which chance could have made it so."""
    least = found.fewest if found.kind == "always" else found.rows
    unsure = [
        rows
        for rows, taken in by_rows(cell).items()
        if least is not None and rows >= least
        if (figure := with_interval(taken, RATIOS[BF16])).low is not None and figure.low <= 1
    ]
    return f", though within chance at {_listed(unsure)}" if unsure else ""


def _listed(rows: Sequence[int]) -> str:
    return f"{', '.join(map(str, rows))} {'row' if rows == (1,) else 'rows'}"


def _rows_figure(found: Crossover | None) -> Figure:
    if found is None:
        return Figure(word=NOT_MEASURED)
    if found.kind == "from":
        return Figure(word=str(found.rows))
    return Figure(word="all" if found.kind == "always" else "none", reason=found.reason)


def _kernel_words(cell: CellRecords) -> str:
    """The kernels over the rows: `fused (1 to 16), dequantize and multiply (32 to 512)`."""
    ran = [(rows, _kernel(taken).word) for rows, taken in by_rows(cell).items()]
    told = [(rows, word) for rows, word in ran if word not in (None, NOT_MEASURED)]
    runs = [(word, [rows for rows, _ in same]) for word, same in groupby(told, lambda one: one[1])]
    if len(runs) <= 1:
        return "".join(str(word) for word, _ in runs)
    return ", ".join(f"{word} ({_span(rows)})" for word, rows in runs)


def _span(rows: Sequence[int]) -> str:
    return f"{rows[0]}" if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"


def _kernel(taken: Sequence[Record]) -> Figure:
    """Which kernels the sizes ran by: one word where all did alike."""
    sizes = [one for record in taken for one in sizes_of(record)]
    if not sizes:
        return Figure(word=NOT_MEASURED)
    kinds = dict.fromkeys(str(one.get("kernel") or NO_VALUE) for one in sizes)
    reasons = [str(one["kernel_reason"]) for one in sizes if one.get("kernel_reason")]
    return Figure(word=" / ".join(kinds), reason=reasons[0] if reasons else None)


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
        "kernels.kernel": _kernel(taken),
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
