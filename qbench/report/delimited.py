"""The records as comma-separated values: one row a metric, in long form."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from qbench.report.rows import COLUMNS, metric_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.record import Record


def render(records: Sequence[Record]) -> str:
    """All records, also those that a page passes over: `tabled` tells them apart.

    What is missing is an empty field; `reason` says why.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in metric_rows(records):
        writer.writerow({name: _field(value) for name, value in row.items()})
    return text.getvalue()


def _field(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
