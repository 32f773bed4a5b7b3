"""The field's names of metrics beside qbench's own, for legends and exports."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.compare.served import MODEL_BITS, SERVED
from qbench.measures.field_names import field_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qbench.core.page import Table

_METRICS = {
    "kl": "kl.mean",
    "decoded.kl": "decoded.kl.mean",
    SERVED[MODEL_BITS]: MODEL_BITS,
}
"""What a column is of whose key is no metric's name."""


def with_field_names(table: Table, params: Mapping[str, Any] | None = None) -> Table:
    """The table with what else its columns are called; `params` are those of its item."""
    columns = tuple(
        replace(column, also_called=column.also_called or field_names(_metric(column.key), params))
        for column in table.columns
    )
    return replace(table, columns=columns)


def names_in_words(metric: str | None, params: Mapping[str, Any] | None = None) -> str | None:
    """What else a metric is called, in a row of an export; None for nothing else."""
    return ", ".join(field_names(metric or "", params)) or None


def called_elsewhere(metrics: Iterable[tuple[str, Mapping[str, Any] | None]]) -> list[str]:
    """What else metrics are called that a table names in its rows: a line, or none."""
    names = {metric: field_names(metric, params) for metric, params in metrics}
    told = [f"{metric} is {', '.join(found)}" for metric, found in names.items() if found]
    return [f"Called elsewhere: {'; '.join(told)}."] if told else []


def _metric(key: str) -> str:
    name = key.partition(":")[0]
    return _METRICS.get(name, name)
