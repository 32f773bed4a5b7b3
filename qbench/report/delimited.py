"""The records as comma-separated values: one row a metric, in long form."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from qbench.report.rows import COLUMNS, metric_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record

_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")
"""What begins a formula, in one spreadsheet or another."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def render(records: Sequence[Record]) -> str:
    """All records, also those that a page passes over: `tabled` tells them apart.

    What is missing is an empty field; `reason` says why. A text that a spreadsheet would take for a
    formula has a `'` before it; numbers stay numbers.
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
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return "" if value is None else value
