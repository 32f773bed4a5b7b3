"""Which text a suite means, and reading it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qbench.core.errors import TextError
from qbench.core.names import what_there_is
from qbench.core.paths import written_path
from qbench.core.spec import Frozen, slugify
from qbench.core.untrusted import read_bounded
from qbench.sources.bundled import PREFIX, bundled_texts
from qbench.sources.data.documents import Documents, of_rows, parted

LARGEST_BYTES = 2**31
"""Of a text: it is held in memory whole."""
ROWS_SUFFIX = ".jsonl"
"""Of a file with a document a row."""
_TEXT_SUFFIXES = (".txt", ".md", ".raw", ROWS_SUFFIX)


class ResolvedText(Frozen):
    """A text that was found."""

    name: str
    """Short and safe in file names."""
    source: str
    """As written in the suite."""
    kind: Literal["bundled", "file", "rows", "hub"]
    """`rows` is a file with a document a row."""
    location: str
    """The file's absolute path; for bundled texts and hub data the name they are found by."""
    fingerprint: str | None
    """sha256 of the file's contents, of rows with the column; repository, configuration, split and
    commit of hub data."""


@dataclass(frozen=True)
class Dataset:
    """Where a well-known text lies on the hub, and how its rows are joined."""

    repo: str
    config: str
    split: str
    column: str
    separator: str
    revision: str
    document: str
    """Pattern of the line that a document begins with."""

    @property
    def fingerprint(self) -> str:
        """What its contents follow from."""
        return f"{self.repo}/{self.config}/{self.split}/{self.column}@{self.revision}"


_ARTICLE = r"^ = (?!=).*(?<!=) = $"
"""The title of an article of wikitext, not of a section in it."""

DATASETS = {
    # Joined as GPTQ's code and the perplexity guide of transformers do, so that figures compare.
    "wikitext-2": Dataset(
        repo="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        split="test",
        column="text",
        separator="\n\n",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        document=_ARTICLE,
    ),
    # To calibrate on, where the test split above is evaluated on.
    "wikitext-2-train": Dataset(
        repo="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        split="train",
        column="text",
        separator="\n\n",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        document=_ARTICLE,
    ),
}
"""Hub data by the name a suite gives it, each pinned to a commit."""


def resolve_text(source: str, *, base: Path) -> ResolvedText:
    """Finds a text without asking a hub for it.

    `source` is `bundled:<name>`, a file (absolute, from `~`, or from `base`, the suite's folder; a
    `.jsonl` one has a document a row) or a name in `DATASETS`. Raises `TextError` when there is no
    such text, or it is empty or not UTF-8.
    """
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        texts = bundled_texts()
        if name not in texts:
            raise TextError(f"{source}: no bundled text of that name; {what_there_is(name, texts)}")
        _, fingerprint = read_file(texts[name], source)
        return ResolvedText(
            name=name, source=source, kind="bundled", location=name, fingerprint=fingerprint
        )
    path = written_path(source, base, TextError)
    looks_like_file = source.startswith((".", "/", "~")) or source.endswith(_TEXT_SUFFIXES)
    # A folder in the way must not hide a data set of the same name.
    if looks_like_file or path.is_file():
        contents, fingerprint = read_file(path, source)
        rows = path.suffix.lower() == ROWS_SUFFIX
        if rows:
            fingerprint = f"{fingerprint}/{of_rows(contents, source)[0]}"
        return ResolvedText(
            name=slugify(path.stem),
            source=source,
            kind="rows" if rows else "file",
            location=str(path.resolve()),
            fingerprint=fingerprint,
        )
    if source in DATASETS:
        return ResolvedText(
            name=source,
            source=source,
            kind="hub",
            location=source,
            fingerprint=DATASETS[source].fingerprint,
        )
    names = [*DATASETS, *(PREFIX + name for name in bundled_texts())]
    raise TextError(
        f"{source}: neither a file (looked in {base}) nor a text known by name; "
        f"{what_there_is(source, names)}, or give the path of a UTF-8 text file"
    )


def read_text(text: ResolvedText) -> str:
    """The text itself; fetches hub data when it is not in the hub library's cache.

    Raises `TextError` when it cannot be obtained, or a file changed since it was resolved.
    """
    return read_documents(text).text


def read_documents(text: ResolvedText) -> Documents:
    """The text as `read_text` gives it, and where its documents begin, if it has any."""
    if text.kind == "hub":
        return parted(_read_dataset(text), DATASETS[text.location].document)
    path = bundled_texts()[text.location] if text.kind == "bundled" else Path(text.location)
    contents, fingerprint = read_file(path, text.source)
    found = Documents(contents)
    if text.kind == "rows":
        column, found = of_rows(contents, text.source)
        fingerprint = f"{fingerprint}/{column}"
    if fingerprint != text.fingerprint:
        raise TextError(
            f"{text.source}: the file has changed since the run was planned; start the run again"
        )
    return found


def read_file(path: Path, source: str) -> tuple[str, str]:
    """The decoded text and the sha256 of a file; raises `TextError` for one that is no text."""
    try:
        contents = read_bounded(path, LARGEST_BYTES)
    except FileNotFoundError as error:
        raise TextError(
            f"{source}: no such file ({path.absolute()}); expected a UTF-8 text file; check the"
            " path, which starts at the suite's folder"
        ) from error
    except IsADirectoryError as error:
        raise TextError(
            f"{source}: found a folder; expected one UTF-8 text file; name the file in it"
        ) from error
    except OSError as error:
        raise TextError(
            f"{source}: cannot be read: {error.strerror or error}; check the permissions"
        ) from error
    try:
        # A byte order mark is no part of the text.
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{source}: found a byte that is not UTF-8 at offset {error.start}; expected UTF-8"
            " text; convert the file, for instance with iconv"
        ) from error
    if not text.strip():
        raise TextError(f"{source}: the file is empty; expected some text")
    return text, hashlib.sha256(contents).hexdigest()


def _read_dataset(text: ResolvedText) -> str:
    dataset = DATASETS[text.location]
    try:
        import datasets
    except ImportError as error:
        raise TextError(
            f"{text.source}: needs the package datasets, which is not installed; run"
            " pip install datasets, or give a text file"
        ) from error
    datasets.disable_progress_bars()
    load_dataset: Any = datasets.load_dataset
    try:
        rows = load_dataset(
            dataset.repo, dataset.config, split=dataset.split, revision=dataset.revision
        )
    # The library raises ConnectionError for a hub out of reach, and OSErrors and ValueErrors of
    # its own for data it cannot find in its cache when offline.
    except (OSError, ValueError, RuntimeError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TextError(
            f"{text.source}: {dataset.repo} ({dataset.config}) is not downloaded and cannot be"
            f" fetched ({first_line}); check the network and HF_HUB_OFFLINE, or give a text file or"
            " bundled:stdlib-heldout"
        ) from error
    return dataset.separator.join(rows[dataset.column])
