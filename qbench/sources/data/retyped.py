"""Whether a file's rows were once read as other values than the file holds.

Files were read by a library that takes a column of dates, numbers or truths for such, whatever
they were meant as, and some words for nothing. What was measured on such a file is to be measured
again; what was measured on any other still stands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qbench.sources.data.rows import SUFFIXES, WrittenNumber

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qbench.sources.data.rows import Peek

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NOTHING = frozenset(
    (
        "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
        "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    )
)  # fmt: skip
"""Cells that pandas takes for missing."""
_CHUNK_ROWS = 10_000
"""Rows of a CSV file whose types were guessed together."""


def once_retyped(path: Path, seen: Peek | None) -> bool:
    """Whether some value of the file may have been another; `seen` are its first rows."""
    if seen is None:
        return False
    if not seen.whole:
        return True
    columns: dict[str, list[Any]] = {}
    try:
        for row in seen.rows:
            for name, value in row.items():
                for place, leaf in _leaves(name, value):
                    columns.setdefault(place, []).append(leaf)
    except RecursionError:  # values so deep that they are best told apart
        return True
    if SUFFIXES[path.suffix.lower()] == "csv":
        return len(seen.rows) > _CHUNK_ROWS or any(map(_of_csv, columns.values()))
    return any(map(_of_json, columns.values()))


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each with the column that it fell in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{place}.{name}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(f"{place}[]", inner)
    elif value is not None:
        yield place, value


def _of_json(values: list[Any]) -> bool:
    [kind, *others] = {type(value) for value in values}
    if others or kind is bool:
        return True
    if kind is str:
        return all(map(_DATE.match, values))
    return any(str(value) != str(_as_guessed(value)) for value in values)


def _as_guessed(number: int | WrittenNumber) -> float:
    return float(number) if isinstance(number, WrittenNumber) or abs(number) >= 2**63 else number


def _of_csv(values: list[str]) -> bool:
    there = [value for value in values if value]
    if any(value in _NOTHING for value in there):
        return True
    integers = len(there) == len(values) and all(map(_is_plain_integer, there))
    return not integers and all(map(_looks_typed, there))


def _is_plain_integer(value: str) -> bool:
    return re.fullmatch(r"0|-?[1-9]\d{0,17}", value) is not None


def _looks_typed(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return value.strip().casefold() in {"true", "false"}
    return True
