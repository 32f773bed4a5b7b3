"""The table of quality of decoded positions, where the KV cache is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import items, text_titles
from qbench.core.page import Column, Figure, Table
from qbench.report.cell_row import cell_row
from qbench.report.decision import change_figure
from qbench.report.figures import NOT_MEASURED, pool

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords

DECODED = "decoded"
_PERPLEXITY = Column("decoded.perplexity", "perplexity", "number", decimals=4)
_CHANGE = (
    Column("change", "change", "change"),
    Column("change.low", "95 % from", "change"),
    Column("change.high", "95 % to", "change"),
)
_FURTHER = (
    Column("decoded.kl.mean", "KL mean", "number", decimals=6),
    Column("decoded.kl.rounding", "of it rounding", "number", decimals=6),
    Column("decoded.kl.p99", "p99", "number", decimals=4),
    Column("decoded.kl.max", "max", "number", decimals=4),
    Column("decoded.kl.reverse", "reverse KL", "number", decimals=6),
    Column("decoded.top1_agreement", "same top token", "percent"),
    Column("decoded.rms_probability_change", "RMS change of p", "percent"),
    Column("decoded.tokens", "tokens scored", "exact"),
)


def decoded_table(records: TableRecords, slug: str) -> Table:
    """Perplexity and divergence of what was predicted from decoded positions."""
    texts = items(records, DECODED)
    rows = []
    for cell in records.cells:
        found = cell.of(DECODED, slug)
        if not found:
            continue
        change = change_figure(cell, records.reference, slug, (DECODED, _PERPLEXITY.key))
        figures = (
            pool(found, _PERPLEXITY.key).figure,
            *(
                Figure(value)
                if value is not None
                else Figure(word=NOT_MEASURED, reason=change.reason)
                for value in (change.value, change.low, change.high)
            ),
            *(pool(found, column.key).figure for column in _FURTHER),
        )
        rows.append(cell_row(cell, figures))
    params = texts[slug].item.params
    point = f"{params.get('new_tokens')} tokens decoded after {params.get('prompt_tokens')}"
    title = f"Quality of decoded positions: {text_titles(texts)[slug]}, {point}"
    return Table(title, "precision", (_PERPLEXITY, *_CHANGE, *_FURTHER), tuple(rows))
