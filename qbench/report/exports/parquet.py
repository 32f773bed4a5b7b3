"""Records as Parquet: the rows of a frame with their types, and the values by item beside them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from qbench.core.packages import qbench_version
from qbench.core.record import SCHEMA_VERSION
from qbench.core.unchecked import as_list
from qbench.report.frame import to_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from qbench.core.record import Record

ITEM_COLUMNS = (
    "suite",
    "rehearsal",
    "device_kind",
    "model",
    "label",
    "cell",
    "reference",
    "measurement",
    "item",
    "repeat",
    "key",
    "started_at",
    "each",
    "series",
    "place",
    "item_id",
    "cluster",
    "value",
)
"""Columns of the values by item, in order.

`key` is that of the record, as in the rows. `each` is `item` or `window`, `series` what the value
is (`acc`, `nll`, `kl_sum` …), and `place` counts from 0 within the record. `item_id` is the same in
each cell that was given the same item; `cluster` numbers what items share that belong together.
Both are null where a record does not hold them.
"""
_EACH = ("item", "window")
_STARTED = "started_at"
_UNITS = {"duration_s": "s"}
"""Of columns that are always in one unit; `value` and its kin are in that of the column `unit`."""


def rows_parquet(records: Sequence[Record]) -> bytes:
    """The rows of `qbench.load_results`, also those of older records; `started_at` is a time."""
    return _written(to_frame(records))


def items_parquet(records: Sequence[Record]) -> bytes | None:
    """A row for each value that records keep of items and windows; None where they keep none."""
    import pandas as pd

    frame = pd.DataFrame(
        [row for record in records for row in _items(record)], columns=list(ITEM_COLUMNS)
    )
    whole = dict.fromkeys(("repeat", "place", "cluster"), "Int64")
    kinds = whole | {"value": "float64", "rehearsal": "boolean", "reference": "boolean"}
    return None if frame.empty else _written(frame.astype(kinds))


def _items(record: Record) -> Iterator[dict[str, Any]]:
    shared = {
        "suite": record.suite,
        "rehearsal": bool(record.rehearsal),
        "device_kind": record.environment.device_kind,
        "model": record.cell.model.name,
        "label": record.cell.label,
        "cell": record.cell.slug,
        "reference": record.reference,
        "measurement": record.item.measurement,
        "item": record.item.slug,
        "repeat": record.item.repeat,
        "key": record.key,
        _STARTED: record.started_at,
    }
    details: Mapping[str, Any] = record.details
    for name, values in record.series.items():
        each, _, series = name.partition("_")
        if each not in _EACH:
            continue
        places = _places(details, series, len(values))
        ids, clusters = as_list(details.get("item_ids")), as_list(details.get("clusters"))
        for place, value in zip(places, values, strict=True):
            yield shared | {
                "each": each,
                "series": series,
                "place": place,
                "item_id": str(ids[place]) if each == "item" and place < len(ids) else None,
                "cluster": clusters[place] if each == "item" and place < len(clusters) else None,
                "value": value,
            }


def _places(details: Mapping[str, Any], series: str, count: int) -> list[int]:
    """Which items a series is of, where not all count under it."""
    told = details.get("items_of")
    named = as_list(told.get(series)) if isinstance(told, dict) else []
    held = len(named) == count and all(isinstance(one, int) and one >= 0 for one in named)
    return named if held else list(range(count))


def _written(frame: pd.DataFrame) -> bytes:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = pd.to_datetime(frame[_STARTED], utc=True, format="ISO8601", errors="coerce")
    table = pa.Table.from_pandas(
        frame.assign(**{_STARTED: times.astype("datetime64[us, UTC]")}), preserve_index=False
    )
    schema = pa.schema(
        [
            field.with_metadata({"unit": _UNITS[field.name]}) if field.name in _UNITS else field
            for field in table.schema
        ],
        metadata={
            **(table.schema.metadata or {}),
            "qbench": qbench_version(),
            "qbench_schema_version": str(SCHEMA_VERSION),
        },
    )
    file = io.BytesIO()
    pq.write_table(table.cast(schema), file)
    return file.getvalue()
