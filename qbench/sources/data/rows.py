"""Rows of JSON, CSV and Parquet files: a quick look when planning, all of them when running.

What a JSON or CSV file holds stays as it is written there: no cell becomes a date, a number or
nothing because of how it looks.
"""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from qbench.core.errors import TextError
from qbench.core.files import scratch_folder
from qbench.core.packages import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""Files that can be read, by the format that the package datasets calls them."""
PEEK_CHARACTERS = 4 * 1024 * 1024
"""How much of a file is looked at when a suite is planned."""

_BETWEEN_VALUES = re.compile(r"[\s,]*")
_LONGEST_CELL = 2**31 - 1
"""The largest limit that the package csv takes on every platform."""
_LONGEST_INTEGER = 4000
"""Digits of an integer beyond which Python refuses to make a number of it."""


class JsonRow(dict[str, Any]):
    """A row of a JSON file: its `true` and `false` are written so, not as Python writes them."""


class WrittenNumber(float):
    """A number of a JSON file: counts as a number, is written as it stands there."""

    def __new__(cls, text: str) -> Self:
        """From its characters."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __str__(self) -> str:
        return self.text


class Peek(NamedTuple):
    """Rows at the beginning of a file."""

    rows: list[dict[str, Any]]
    whole: bool
    """Whether they are all its rows."""

    @property
    def first(self) -> dict[str, Any]:
        """The first row. What only others have is empty in it, as it is when all are read."""
        return filled(self.rows)[0]


def suffixes_in_words() -> str:
    """All suffixes in one phrase."""
    *others, last = SUFFIXES
    return f"{', '.join(others)} or {last}"


def peek(path: Path, source: str) -> Peek | None:
    """At least one row of a JSON or CSV file, without the package datasets; None of another file.

    `source` is what messages call the file. Raises `TextError` for one that holds no rows.
    """
    if SUFFIXES[path.suffix.lower()] == "parquet":
        return None
    return _read(path, source, PEEK_CHARACTERS)


def read_rows(path: Path, source: str) -> list[dict[str, Any]]:
    """All rows of a JSON or CSV file as they stand there, each with the columns that it has."""
    return _read(path, source, None).rows


def _read(path: Path, source: str, most: int | None) -> Peek:
    """The rows of a JSON or CSV file; those that begin in its first `most` characters."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read(most)
            whole = most is None or not file.read(1)
    except UnicodeDecodeError as error:
        raise TextError(
            f"{source}: found a byte that is not UTF-8; expected UTF-8 text; convert the file, for"
            " instance with iconv"
        ) from error
    parse = _csv_rows if SUFFIXES[path.suffix.lower()] == "csv" else _json_rows
    rows = parse(text, source, whole=whole)
    if not rows and not whole:  # the first row is longer than that
        return _read(path, source, None)
    if not rows:
        raise TextError(f"{source}: found no row; expected rows to tune on")
    return Peek(rows, whole)


def json_rows(text: str, source: str) -> list[dict[str, Any]]:
    """All rows of a JSON text that was read already; raises `TextError` where it is none."""
    return _json_rows(text, source, whole=True)


def filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with every column: what only others have is empty in it."""
    names = {name: None for row in rows for name in row}
    return [row if len(row) == len(names) else type(row)({**names, **row}) for row in rows]


def _csv_rows(text: str, source: str, *, whole: bool) -> list[dict[str, Any]]:
    """The rows after the line of names, their cells as text, up to where the text is cut off."""
    # A limit of the whole process, of 131,072 characters a cell; no cell is longer than its file.
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    names: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if names is None:
                names = _column_names(cells, source)
            elif len(cells) > len(names):
                raise TextError(
                    f"{source}:{reader.line_num}: found {len(cells)} cells where the first line"
                    f' names {len(names)} columns; expected one a column; put "…" around a cell'
                    " that holds a comma"
                )
            else:
                there = zip_longest(names, cells, fillvalue="")
                rows.append({name: cell for name, cell in there if name})
    except csv.Error as error:
        if whole or not rows:
            raise TextError(
                f"{source}:{reader.line_num}: found no valid CSV ({error}); expected cells between"
                ' commas, in "…" where they hold a comma or a line break, with "" for each quote in'
                " them; correct the line"
            ) from error
        return rows
    return rows if whole else rows[:-1]


def _column_names(cells: list[str], source: str) -> list[str]:
    twice = next((name for name in cells if name and cells.count(name) > 1), None)
    if twice is not None:
        raise TextError(
            f"{source}: the first line names the column {twice} twice; expected each once; rename"
            " one of them"
        )
    return cells


def _json_rows(text: str, source: str, *, whole: bool) -> list[dict[str, Any]]:
    """The objects of a list, or of one after the other, up to where the text is cut off."""
    decoder = json.JSONDecoder(
        parse_float=WrittenNumber, parse_int=_integer, parse_constant=_constant
    )
    listed = text.lstrip().startswith("[")
    at = text.index("[") + 1 if listed else 0
    end = len(text.rstrip()) - 1 if listed and whole else len(text)
    rows: list[dict[str, Any]] = []
    while (at := _after_separators(text, at)) < end:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not whole:
                break
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise TextError(
                f"{source}:{line}: found no valid JSON ({error}); expected an object a line, or a"
                " list of objects; correct the line"
            ) from error
        if not isinstance(value, dict):
            raise TextError(
                f"{source}: row {len(rows) + 1} is a JSON {_kind(value)}; expected an"
                " object with a value for each column"
            )
        rows.append(JsonRow(value))
    return rows


def _kind(value: Any) -> str:
    return "float" if isinstance(value, WrittenNumber) else type(value).__name__


def _integer(text: str) -> int | WrittenNumber:
    if text == "-0" or len(text) > _LONGEST_INTEGER:
        return WrittenNumber(text)
    return int(text)


def _constant(text: str) -> WrittenNumber | None:
    """NaN is how several libraries write that there is nothing."""
    return None if text == "NaN" else WrittenNumber(text)


def _after_separators(text: str, at: int) -> int:
    found = _BETWEEN_VALUES.match(text, at)
    return at if found is None else found.end()


@contextmanager
def open_file(path: Path, source: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    """All rows of a file, each a mapping of its columns.

    Raises `TextError` for a file that cannot be parsed.
    """
    if SUFFIXES[path.suffix.lower()] != "parquet":
        yield filled(read_rows(path, source))
        return
    # The library keeps a copy of every file it reads: here no longer than it is needed.
    with scratch_folder("qbench-data") as folder:
        rows, failure = load(
            source,
            path="parquet",
            data_files=str(path),
            split="train",
            cache_dir=str(folder),
            keep_in_memory=True,
        )
        if rows is None:
            raise TextError(
                f"{source}: cannot be read as parquet ({failure}); expected rows with values of the"
                " same kinds; write the file again"
            )
        yield rows


def load(source: str, **arguments: Any) -> tuple[Sequence[Mapping[str, Any]] | None, str]:
    """The rows as the package datasets loads them, or None and the reason."""
    try:
        import datasets
    except ImportError as error:
        raise TextError(f"{source}: needs datasets: {install_command(['datasets'])}") from error
    datasets.disable_progress_bars()
    load_dataset: Any = datasets.load_dataset
    # The library raises ConnectionError for a hub out of reach, OSErrors and ValueErrors of its own
    # for data that it cannot find, and errors of its own tree for files that it cannot parse.
    try:
        return load_dataset(**arguments), ""
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        return None, next(iter(str(cause).strip().splitlines()), type(cause).__name__)
