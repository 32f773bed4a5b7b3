"""Rows of data on the hub.

The library that fetches them guesses the types of columns of JSON and CSV files. Where these are
what the data is made of, the files themselves are read, as files on this machine are.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.cache import read_cached, write_cached
from qbench.core.errors import TextError
from qbench.sources.data.rows import SUFFIXES, filled, load, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_GUESSED = {"json": r"timestamp|date|time|duration", "csv": r"float|bool|null|timestamp|date|time"}
"""Types that a library gives to text of such files, which have no such type or lose by it."""
_PLAIN: dict[str, tuple[object, ...]] = {
    "sep": (",",), "header": ("infer",), "quotechar": ('"',), "encoding": (None, "utf-8"),
    **dict.fromkeys(
        ("delimiter", "names", "column_names", "skiprows", "nrows", "escapechar", "comment",
         "field"),
        (None,),
    ),
}  # fmt: skip
"""Options of the library under which a file says by itself what its rows are."""


@dataclass(frozen=True)
class _Wanted:
    repo: str
    revision: str | None
    config: str | None
    split: str
    source: str


@contextmanager
def open_hub(
    repo: str, revision: str | None, config: str | None, split: str, source: str
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """All rows of hub data, fetched where they are not in the library's own cache.

    Raises `TextError` for data that is not there, and for text that was taken for something else
    in a cache that does not hold the files.
    """
    rows: Any
    rows, failure = load(source, path=repo, name=config, split=split, revision=revision)
    if rows is None:
        raise TextError(
            f"{source}: the data set cannot be fetched ({failure}); check its name, revision,"
            " config and split, the network and HF_HUB_OFFLINE, or give a file or"
            " bundled:stdlib-instruct"
        )
    if rows.info.builder_name in _GUESSED and len(rows):
        wanted = _Wanted(repo, revision, config, split, source)
        written = _as_written(rows, wanted)
        if written is None:
            _check_guessed(rows, source)
        else:
            rows = written
    yield rows


def _as_written(rows: Any, wanted: _Wanted) -> list[dict[str, Any]] | None:
    """The same rows from the files; None where the files are not there or are read by options."""
    import datasets
    from huggingface_hub import hf_hub_download

    commit = Path(rows.cache_files[0]["filename"]).parent.name
    identity = {"repo": wanted.repo, "config": rows.info.config_name, "commit": commit}
    files = read_cached("data-files", identity)
    if files is None:
        files = _data_files(wanted)
        if files is None:
            return None
        write_cached("data-files", identity, files)
    instruction = datasets.ReadInstruction.from_spec(wanted.split)
    lengths = {name: split.num_examples for name, split in rows.info.splits.items()}
    found: list[dict[str, Any]] = []
    for part in instruction.to_absolute(lengths):
        whole: list[dict[str, Any]] = []
        try:
            for name in files[part.splitname]:
                path = hf_hub_download(wanted.repo, name, repo_type="dataset", revision=commit)
                whole += read_rows(Path(path), wanted.source)
        except (OSError, ValueError, KeyError, TextError):
            return None  # no longer in the cache, or nothing that is read here
        if len(whole) != lengths[part.splitname]:
            return None
        found += whole[part.from_ : part.to]
    return filled(found)


def _data_files(wanted: _Wanted) -> dict[str, list[str]] | None:
    """Paths in the repository by split; None out of the hub's reach, or for other files."""
    import datasets

    load_builder: Any = datasets.load_dataset_builder
    try:
        options = load_builder(wanted.repo, wanted.config, revision=wanted.revision).config
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
        return None
    if any(getattr(options, name, usual[0]) not in usual for name, usual in _PLAIN.items()):
        return None
    files = {
        str(split): [str(url).partition("@")[2].partition("/")[2] for url in urls]
        for split, urls in (options.data_files or {}).items()
    }
    suffixes = {Path(name).suffix.lower() for names in files.values() for name in names}
    return files if suffixes and suffixes <= SUFFIXES.keys() else None


def _check_guessed(rows: Any, source: str) -> None:
    """Raises `TextError` where a column's type was guessed from its text."""
    kind = rows.info.builder_name
    for name, feature in rows.features.items():
        blank = kind == "csv" and None in rows[name][:]
        if blank or re.search(_GUESSED[kind], str(feature)):
            raise TextError(
                f"{source}: the column {name} was fetched earlier, by a library that took its text"
                " for something else (dates, numbers or gaps), and the file it came from is not"
                " there; run once with access to the hub, or download the file and give its path"
            )
