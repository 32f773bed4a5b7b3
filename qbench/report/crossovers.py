"""From how many rows on a format is slower than bf16, and by which kernels, in sentences."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from qbench.compare.crossover import crossover
from qbench.core.number_types import BF16, FP32
from qbench.core.page import Figure
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.predict.bf16 import is_bf16
from qbench.report.cell_row import called_in_words
from qbench.report.figures import NO_VALUE, NOT_MEASURED, pool, with_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.crossover import Crossover
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record

MEASUREMENT = "kernels"
RATIOS = {BF16: "kernels.ratio", FP32: f"kernels.ratio.{FP32}"}
"""Of the times over those of plain layers in a type."""
_WHOLE = 10
"""Rows from which on no decimal is shown of what was interpolated."""


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
        ran = kernel_words(cell)
        lines.append(f"{text}. Kernel: {ran}." if ran else f"{text}.")
    return lines


def crossover_data(records: TableRecords) -> list[dict[str, Any]]:
    """The same for programs: of each cell and type where its ratio rises above 1, or why not."""
    return [
        {"cell": cell.label, "beside": beside, **asdict(found), "reason": found.reason}
        for cell in records.cells
        for beside in RATIOS
        if (found := crossover_of(cell, beside)) is not None
    ]


def kernel_words(cell: CellRecords) -> str:
    """The kernels over the rows: `fused (1 to 16), dequantize and multiply (32 to 512)`."""
    ran = [(rows, kernel_of(taken).word) for rows, taken in by_rows(cell).items()]
    told = [(rows, word) for rows, word in ran if word not in (None, NOT_MEASURED)]
    runs = [(word, [rows for rows, _ in same]) for word, same in groupby(told, lambda one: one[1])]
    if len(runs) <= 1:
        return "".join(str(word) for word, _ in runs)
    return ", ".join(f"{word} ({_span(rows)})" for word, rows in runs)


def kernel_of(taken: Sequence[Record]) -> Figure:
    """Which kernels the sizes ran by: one word where all did alike."""
    sizes = [one for record in taken for one in sizes_of(record)]
    if not sizes:
        return Figure(word=NOT_MEASURED)
    kinds = dict.fromkeys(str(one.get("kernel") or NO_VALUE) for one in sizes)
    reasons = [str(one["kernel_reason"]) for one in sizes if one.get("kernel_reason")]
    return Figure(word=" / ".join(kinds), reason=reasons[0] if reasons else None)


def sizes_of(record: Record) -> list[Mapping[str, object]]:
    """What a record holds of each size of layer."""
    return [as_mapping(one) for one in as_list(record.details.get("sizes"))]


def _in_words(found: Crossover, beside: str) -> str:
    if found.kind == "always":
        return f"slower than {beside} at every number of rows, {found.measured}"
    if found.kind == "never":
        if found.up_to is not None:
            return f"slower than {beside} up to {_listed((found.up_to,))}, not at more"
        if found.earlier:
            return f"slower than {beside} at {_listed(found.earlier)}, not at more"
        return f"not slower than {beside} at any number of rows, {found.measured}"
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


def _span(rows: Sequence[int]) -> str:
    return f"{rows[0]}" if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"
