"""The times of one point of the grid: over the processes, and within them."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from qbench.compare.items import describe_point
from qbench.core.page import Column, Figure, Table
from qbench.core.unchecked import as_mapping, as_number
from qbench.report.cell_row import cell_row
from qbench.report.field_names import with_field_names
from qbench.report.figures import NOT_MEASURED, Pooled, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

TIMED = {"prefill": "a prompt", "decode": "a new token"}
"""What is timed, and what one time is of."""
_SPREAD = (("p90", "p90"), ("p99", "p99"), ("iqr", "IQR"))


def latency_table(records: TableRecords, point: Record, kind: str) -> Table:
    """One row a cell; `kind` is of `TIMED`."""
    rows = [
        cell_row(cell, _figures(found, kind))
        for cell in records.cells
        if (found := cell.of("latency", point.item.slug))
    ]
    title = f"Latency of {kind}, time {TIMED[kind]}: {describe_point(point)}"
    table = Table(title, "precision", _columns(kind), tuple(rows))
    return with_field_names(table, point.item.params)


def _columns(kind: str) -> tuple[Column, ...]:
    name = f"latency.{kind}"
    columns = [
        Column(f"{name}.processes", "processes", "text"),
        Column(name, "median", "seconds", shares_unit=True),
        Column(f"{name}.lowest", "lowest process", "seconds", shares_unit=True),
        Column(f"{name}.highest", "highest process", "seconds", shares_unit=True),
        *(Column(f"{name}.{q}", title, "seconds", shares_unit=True) for q, title in _SPREAD),
        Column(f"throughput.{kind}", "tokens/s", "number"),
        Column("other_programs", "CPUs of other programs", "number", decimals=2),
    ]
    return tuple(columns)


def _figures(found: Sequence[Record], kind: str) -> tuple[Figure, ...]:
    pooled = pool(found, f"latency.{kind}")
    spread = (pooled.lowest, pooled.highest) if pooled.succeeded > 1 else (None, None)
    figures = [Figure(word=_processes(pooled)), pooled.figure]
    figures += [
        Figure(value, unlike_served=pooled.figure.unlike_served)
        if value is not None
        else Figure(word=NOT_MEASURED)
        for value in spread
    ]
    figures += [pool(found, f"latency.{kind}.{quantile}").figure for quantile, _ in _SPREAD]
    figures.append(pool(found, f"throughput.{kind}").figure)
    figures.append(_of_other_programs(found))
    return tuple(figures)


def _processes(pooled: Pooled) -> str:
    return f"{pooled.succeeded} of {pooled.taken}"


def _of_other_programs(found: Sequence[Record]) -> Figure:
    """CPUs that other programs used beside the samples, on average over the processes."""
    each = [as_mapping(record.details.get("other_programs")) for record in found]
    used = [as_number(one.get("used_cpus")) for one in each]
    known = [one for one in used if one is not None]
    if known:
        return Figure(fmean(known))
    reasons = [str(one["reason"]) for one in each if one.get("reason")]
    return Figure(word=NOT_MEASURED, reason=reasons[0] if reasons else None)
