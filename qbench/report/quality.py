"""Tables of quality: perplexity with its change, divergence, and the weights' error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import against_merged, batch_told, items, text_titles
from qbench.core.page import Column, Figure, Table
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.report.cell_row import cell_row
from qbench.report.decision import change_figure
from qbench.report.figures import NOT_MEASURED, pool

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords

WORST_LAYERS = 3
"""Layers named in the table of weight errors; the records have them all."""


def quality_table(records: TableRecords, slug: str) -> Table:
    """Perplexity with its change and interval, and bits per byte."""
    texts = items(records, "quality")
    rows = []
    for cell in records.cells:
        found = cell.of("quality", slug)
        if not found:
            continue
        change = change_figure(cell, records.reference, slug)
        compared = [
            Figure(value) if value is not None else Figure(word=NOT_MEASURED, reason=change.reason)
            for value in (change.value, change.low, change.high)
        ]
        windows = found[0].series.get("window_nll")
        figures = (
            pool(found, "perplexity").figure,
            *compared,
            pool(found, "bits_per_byte").figure,
            pool(found, "tokens").figure,
            Figure(float(len(windows))) if windows else Figure(word=NOT_MEASURED),
            pool(found, "nonfinite_share").figure,
        )
        rows.append(cell_row(cell, figures))
    columns = (
        Column("perplexity", "perplexity", "number", decimals=4),
        Column("change", "change", "change"),
        Column("change.low", "95 % from", "change"),
        Column("change.high", "95 % to", "change"),
        Column("bits_per_byte", "bits/byte", "number", decimals=4),
        Column("tokens", "tokens scored", "exact"),
        Column("windows", "windows", "exact"),
        Column("nonfinite_share", "non-finite", "percent"),
    )
    title = f"Quality: {text_titles(texts)[slug]}{batch_told(records, texts[slug])}"
    return Table(title, "precision", columns, tuple(rows))


def divergence_table(records: TableRecords, slug: str) -> Table:
    """How far each cell's predictions are from the reference's; empty where none were compared."""
    columns = (
        Column("kl.mean", "KL mean", "number", decimals=6),
        _rounding_column(records, slug),
        Column("kl.median", "median", "number", decimals=6),
        Column("kl.p90", "p90", "number", decimals=5),
        Column("kl.p99", "p99", "number", decimals=4),
        Column("kl.p99_9", "p99.9", "number", decimals=4),
        Column("kl.max", "max", "number", decimals=4),
        Column("kl.reverse", "reverse KL", "number", decimals=6),
        Column("top1_agreement", "same top token", "percent"),
        Column("rms_probability_change", "RMS change of p", "percent"),
    )
    rows = []
    for cell in records.cells:
        measured = cell.of("quality", slug)
        if not measured or measured[0].metric("kl.mean") is None:
            continue
        figures = tuple(pool(measured, column.key).figure for column in columns)
        rows.append(cell_row(cell, figures))
    found = items(records, "quality")
    base = "" if against_merged(found[slug]) else " from the reference"
    told = batch_told(records, found[slug])
    title = f"Divergence{base}, nats a token: {text_titles(found)[slug]}{told}"
    return Table(title, "precision", columns, tuple(rows))


def _rounding_column(records: TableRecords, slug: str) -> Column:
    """What of the divergence is rounding; earlier records have another figure in its place."""
    found = [record for cell in records.cells for record in cell.of("quality", slug)]
    if any(record.metric("kl.noise_floor") for record in found) and not any(
        record.metric("kl.rounding") for record in found
    ):
        return Column("kl.noise_floor", "noise floor", "number", decimals=6)
    return Column(
        "kl.rounding",
        "of it rounding",
        "number",
        decimals=6,
        definition="what two runs of the same weights differ by because their arithmetic rounds"
        " differently, of the cell and the reference; a KL mean not well above it is noise, not"
        " damage",
    )


def weight_error_table(records: TableRecords) -> Table:
    """The error of the weights, with the worst layers by name."""
    columns = (
        Column("weight_error.relative", "relative error", "percent"),
        Column("weight_error.snr", "signal to noise (dB)", "number", decimals=1),
        Column("worst", "worst layers", "text"),
    )
    rows = []
    for cell in records.cells:
        found = cell.of("weight_error")
        if not found or found[0].metric("weight_error.relative") is None:
            continue
        worst = [
            f"{layer.get('name')} {error:.2%}"
            for layer in map(as_mapping, as_list(found[0].details.get("layers"))[:WORST_LAYERS])
            if (error := as_number(layer.get("relative_error")))
        ]
        figures = (
            *(pool(found, column.key).figure for column in columns[:2]),
            Figure(word=", ".join(worst) or "none"),
        )
        rows.append(cell_row(cell, figures))
    return Table("Error of the weights against the checkpoint's", "precision", columns, tuple(rows))
