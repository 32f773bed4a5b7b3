"""What the decision table tells of cells with a quantized KV cache: its bytes and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import items, text_name
from qbench.core.page import Column

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

CACHE = "memory.kv_cache"
DECODED_KL = "decoded.kl.mean"


def has_quantized_cache(records: TableRecords) -> bool:
    """Whether some cell decodes with a quantized KV cache."""
    return any(cell.records[0].cell.kv_cache is not None for cell in records.cells)


def first_decoded(records: TableRecords) -> Record | None:
    """A record of the first text whose positions were decoded; None where none was."""
    return next(iter(items(records, "decoded").values()), None)


def cache_columns(
    records: TableRecords, decoded: Record | None, held_against: str | None
) -> list[Column]:
    """The cache's bytes, where some are quantized; and the divergence where it is read."""
    columns = []
    if has_quantized_cache(records):
        text = "bytes of keys and values, or codes and scales, after the last decoded token"
        columns.append(Column(CACHE, "KV cache", "bytes", "lower", text))
    if decoded is not None:
        params = decoded.item.params
        text = (
            f"mean divergence a token from the predictions of {held_against or 'the reference'}, in"
            f" nats, at {params.get('new_tokens')} positions decoded one by one through the KV"
            f" cache after {params.get('prompt_tokens')} tokens, on {text_name(decoded)}"
        )
        columns.append(Column("decoded.kl", "KL decoded", "number", "lower", text, decimals=5))
    return columns
