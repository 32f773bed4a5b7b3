"""Rows of JSON, CSV, Parquet and hub data: a quick look when planning, all of them when running."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.errors import TextError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""Files that can be read, by the format that the package datasets calls them."""
PEEK_CHARACTERS = 4 * 1024 * 1024
"""How much of a file is looked at when a suite is planned."""

_BETWEEN_VALUES = re.compile(r"[\s,]*")


class Peek(NamedTuple):
    """Rows at the beginning of a file."""

    rows: list[dict[str, Any]]
    whole: bool
    """Whether they are all its rows."""

    @property
    def first(self) -> dict[str, Any]:
        """The first row. What only others have is empty in it, as it is when all are read."""
        return {**{name: None for row in self.rows for name in row}, **self.rows[0]}


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
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read(PEEK_CHARACTERS)
            whole = not file.read(1)
    except UnicodeDecodeError as error:
        raise TextError(
            f"{source}: found a byte that is not UTF-8; expected UTF-8 text; convert the file, for"
            " instance with iconv"
        ) from error
    is_csv = SUFFIXES[path.suffix.lower()] == "csv"
    rows = _csv_rows(text) if is_csv else _json_rows(text, source, whole=whole)
    if not rows:
        raise TextError(f"{source}: found no row; expected rows to tune on")
    return Peek(rows, whole)


def _csv_rows(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True), restval="")
    return [{name: value for name, value in row.items() if name} for row in reader]


def _json_rows(text: str, source: str, *, whole: bool) -> list[dict[str, Any]]:
    """The objects of a list, or of one after the other, up to where the text is cut off."""
    decoder = json.JSONDecoder()
    listed = text.lstrip().startswith("[")
    at = text.index("[") + 1 if listed else 0
    end = len(text.rstrip()) - 1 if listed and whole else len(text)
    rows: list[dict[str, Any]] = []
    while (at := _after_separators(text, at)) < end:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if rows and not whole:
                break
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise TextError(
                f"{source}:{line}: found no valid JSON ({error}); expected an object a line, or a"
                " list of objects; correct the line"
            ) from error
        if not isinstance(value, dict):
            raise TextError(
                f"{source}: row {len(rows) + 1} is a JSON {type(value).__name__}; expected an"
                " object with a value for each column"
            )
        rows.append(value)
    return rows


def _after_separators(text: str, at: int) -> int:
    found = _BETWEEN_VALUES.match(text, at)
    return at if found is None else found.end()


@contextmanager
def open_file(path: Path, source: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    """All rows of a file, each a mapping of its columns.

    Raises `TextError` for a file that cannot be parsed.
    """
    # The library keeps a copy of every file it reads: here no longer than it is needed.
    with tempfile.TemporaryDirectory(prefix="qbench-data-") as folder:
        rows, failure = _load(
            source,
            path=SUFFIXES[path.suffix.lower()],
            data_files=str(path),
            split="train",
            cache_dir=folder,
            keep_in_memory=True,
        )
        if rows is None:
            raise TextError(
                f"{source}: cannot be read as {SUFFIXES[path.suffix.lower()]} ({failure}); expected"
                " rows with values of the same kinds; correct the file"
            )
        yield rows


@contextmanager
def open_hub(
    repo: str, revision: str | None, config: str | None, split: str, source: str
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """All rows of hub data, fetched where they are not in the library's own cache.

    Raises `TextError` for data that cannot be had.
    """
    rows, failure = _load(source, path=repo, name=config, split=split, revision=revision)
    if rows is None:
        raise TextError(
            f"{source}: the data set cannot be had ({failure}); check its name, revision, config"
            " and split, the network and HF_HUB_OFFLINE, or give a file or"
            " bundled:stdlib-instruct"
        )
    yield rows


def _load(source: str, **arguments: Any) -> tuple[Sequence[Mapping[str, Any]] | None, str]:
    """The rows, or None and the reason."""
    try:
        import datasets
    except ImportError as error:
        raise TextError(
            f"{source}: needs the package datasets, which is not installed; run"
            " pip install datasets"
        ) from error
    datasets.disable_progress_bars()
    load_dataset: Any = datasets.load_dataset
    # The library raises ConnectionError for a hub out of reach, OSErrors and ValueErrors of its own
    # for data that it cannot find, and errors of its own tree for files that it cannot parse.
    try:
        return load_dataset(**arguments), ""
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        return None, next(iter(str(cause).strip().splitlines()), type(cause).__name__)
