"""Typed tables for programs: plain values by key, None for what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qbench.core.page import INTERVAL_LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Column, Figure, Table


def table_data(table: Table) -> dict[str, Any]:
    """A table for programs: what its columns are, and each row with all that is known of it."""
    return {
        "columns": {
            column.key: {
                "title": column.title,
                "kind": column.display,
                "unit": column.unit,
                "better": column.better,
                "definition": column.definition,
                "also_called": list(column.also_called),
            }
            for column in table.columns
        },
        "rows": [
            {
                table.stub: row.label,
                "reference": row.reference,
                "figures": {
                    column.key: figure_data(figure)
                    for column, figure in zip(table.columns, row.figures, strict=True)
                },
            }
            for row in table.rows
        ],
    }


def figure_data(figure: Figure) -> dict[str, Any]:
    """A figure for programs; how it is coloured is not part of it."""
    found = asdict(figure)
    del found["tone"]
    return {**found, "level": None if figure.low is None else INTERVAL_LEVEL}


def rows_data(table: Table) -> list[dict[str, Any]]:
    """The rows for programs, one value a column: a number where the column has any, else a text.

    An estimate has the keys `<key>`, `<key>_low` and `<key>_high`, and its `<key>_word` as shown.
    """
    return [{table.stub: row.label, **_values(table.columns, row.figures)} for row in table.rows]


def _values(columns: Sequence[Column], figures: Sequence[Figure]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, figure in zip(columns, figures, strict=True):
        if column.display in ("text", "mark"):
            found[column.key] = figure.word
            continue
        found[column.key] = figure.value
        if column.display == "estimate":
            found |= {
                f"{column.key}_low": figure.low,
                f"{column.key}_high": figure.high,
                f"{column.key}_word": figure.word,
            }
    return found


def finite(value: Any) -> Any:
    """The value with None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
