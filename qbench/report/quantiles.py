"""Tables of quantiles over tokens and windows, with how surely they are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.items import against_merged, items, text_titles
from qbench.compare.quantiles import keeps_quantile
from qbench.core.page import Column, Figure, Table
from qbench.report.cell_row import cell_row
from qbench.report.figures import REFERENCE_WORD, change_with_interval, with_interval

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords

QUALITY = "quality"
_KL = (
    Column("kl.mean", "KL mean", "number", decimals=6, intervals=True),
    Column("kl.median", "median", "number", decimals=6, intervals=True),
    Column("kl.p90", "p90", "number", decimals=5, intervals=True),
    Column("kl.p99", "p99", "number", decimals=4, intervals=True),
    Column("kl.p99_9", "p99.9", "number", decimals=4, intervals=True),
)
_WINDOWS = (
    Column("window_perplexity.p10", "p10", "number", decimals=3, intervals=True),
    Column("window_perplexity.median", "median", "number", decimals=3, intervals=True),
    Column("window_perplexity.p90", "p90", "number", decimals=3, intervals=True),
)


def divergence_quantiles(
    records: TableRecords, slug: str, measurement: str = QUALITY, text: str = ""
) -> Table:
    """The divergence's quantiles over tokens with intervals; empty where no record tells any.

    `text` says what was scored, where that is not the item's text alone.
    """
    prefix = "" if measurement == QUALITY else f"{measurement}."
    columns = tuple(replace(column, key=f"{prefix}{column.key}") for column in _KL)
    rows = []
    for cell in records.cells:
        measured = cell.of(measurement, slug)
        if cell.reference or not any(keeps_quantile(one, columns[1].key) for one in measured):
            continue
        rows.append(cell_row(cell, tuple(with_interval(measured, one.key) for one in columns)))
    found = items(records, measurement)
    base = "" if against_merged(found[slug]) else " from the reference"
    where = "" if measurement == QUALITY else f" ({measurement})"
    text = text or text_titles(found)[slug]
    title = f"Quantiles of the divergence{base}{where} with 95 % intervals: {text}"
    return Table(title, "precision", columns, tuple(rows))


def window_quantiles(records: TableRecords, slug: str) -> Table:
    """The windows' perplexities with their paired changes; empty where no record tells them."""
    changes = tuple(
        Column(f"change:{one.key}", f"{one.title}, change", "change", intervals=True)
        for one in _WINDOWS
    )
    reference = records.reference
    base = () if reference is None else reference.of(QUALITY, slug)
    rows = []
    for cell in records.cells:
        measured = cell.of(QUALITY, slug)
        if not any(record.metric(_WINDOWS[0].key) for record in measured):
            continue
        own = [with_interval(measured, one.key) for one in _WINDOWS]
        against = [
            Figure(word=REFERENCE_WORD)
            if cell.reference
            else change_with_interval(measured, base, one.key)
            for one in _WINDOWS
        ]
        rows.append(cell_row(cell, (*own, *against)))
    text = text_titles(items(records, QUALITY))[slug]
    title = f"Perplexity of single windows with 95 % intervals: {text}"
    return Table(title, "precision", (*_WINDOWS, *changes), tuple(rows))
