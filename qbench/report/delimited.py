"""The records as comma-separated values: one row a metric, in long form."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qbench.report.rows import COLUMNS, metric_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qbench.compare.stated import Stated
    from qbench.core.record import Record

_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")
"""What begins a formula, in one spreadsheet or another."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def render(records: Sequence[Record], stated: Mapping[str, Stated] | None = None) -> str:
    """All records, also those that a page passes over: `tabled` tells them apart.

    What is missing is an empty field; `reason` says why. A text that a spreadsheet would take for a
    formula has a `'` before it; numbers stay numbers.
    """
    return _written(COLUMNS, metric_rows(records, stated))


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a comparison or a gate, as their JSON has them; `allowed.amount` is within one.

    What is missing is an empty field.
    """
    flat = [dict(_flat(row)) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    parents = {name.rpartition(".")[0] for name in names}
    return _written([name for name in names if name not in parents], flat)


def _written(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _field(value) for name, value in row.items()})
    return text.getvalue()


def _flat(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _field(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value
