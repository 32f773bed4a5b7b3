"""Divergence by how sure the reference is, and the change of the true token's probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Column, Figure, Table
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

_CHANGE = "probability_change."
_SHOWN = ("mean", "min", "p1", "p5", "p25", "median", "p75", "p95", "p99", "max")
_ALL = 1.0


def prefix_of(measurement: str) -> str:
    """What the names of a measurement's metrics begin with."""
    return "" if measurement == "quality" else f"{measurement}."


def change_table(records: TableRecords, slug: str, measurement: str, text: str) -> Table:
    """Mean and quantiles of what the true token's probability has changed by."""
    names = [f"{prefix_of(measurement)}{_CHANGE}{name}" for name in _SHOWN]
    columns = tuple(
        Column(name, shown, "percent", decimals=2)
        for name, shown in zip(names, _SHOWN, strict=True)
    )
    rows = tuple(
        cell_row(cell, tuple(pool(found, name).figure for name in names))
        for cell in records.cells
        if (found := cell.of(measurement, slug))
        and not cell.reference
        and any(record.metric(names[0]) for record in found)
    )
    title = f"Change of the true token's probability: {text}"
    return Table(title, "precision", columns, rows)


def confidence_table(records: TableRecords, slug: str, measurement: str, text: str) -> Table:
    """Mean KL of the tokens that the reference was about as sure of; a column for each range."""
    found = {
        cell.label: (cell, kl_by_confidence(cell.of(measurement, slug)))
        for cell in records.cells
        if not cell.reference
    }
    known = {label: (cell, ranges) for label, (cell, ranges) in found.items() if ranges}
    starts = sorted({start for _, ranges in known.values() for start in ranges})
    tokens = {
        start: max(ranges[start][0] for _, ranges in known.values() if start in ranges)
        for start in starts
    }
    columns = tuple(
        Column(
            f"confidence.{start:g}",
            range_words(start, starts),
            "number",
            decimals=6,
            definition=f"{tokens[start]:,.0f} tokens where the reference's highest probability is"
            " so",
        )
        for start in starts
    )
    rows = tuple(
        cell_row(
            cell,
            tuple(
                Figure(ranges[start][1]) if start in ranges else Figure(word=NOT_MEASURED)
                for start in starts
            ),
        )
        for cell, ranges in known.values()
    )
    title = f"KL mean by the reference's highest probability: {text}"
    return Table(title, "precision", columns, rows)


def range_words(start: float, starts: Sequence[float]) -> str:
    """A range of probabilities, up to where the next of some begins: `0.5 to 0.75`."""
    end = next((one for one in starts if one > start), _ALL)
    return f"below {end:g}" if start == 0 else f"{start:g} to {end:g}"


def kl_by_confidence(found: Sequence[Record]) -> dict[float, tuple[float, float]]:
    """By where a range begins, its tokens and their mean KL; empty where it is not known."""
    for record in found:
        told = as_mapping(record.details.get("by_confidence"))
        columns = (as_list(told.get(name)) for name in ("from", "tokens", "kl"))
        ranges = {
            start: (tokens, total / tokens)
            for at, number, summed in zip(*columns, strict=False)
            if (start := as_number(at)) is not None
            and (tokens := as_number(number))
            and (total := as_number(summed)) is not None
        }
        if record.status == "ok" and ranges:
            return ranges
    return {}
