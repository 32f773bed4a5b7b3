"""Which text a suite means, and reading it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qbench.core.errors import TextError
from qbench.core.names import what_there_is
from qbench.core.packages import install_command
from qbench.core.paths import written_path
from qbench.core.spec import Frozen, slugify
from qbench.core.untrusted import read_bounded
from qbench.sources.bundled import PREFIX, bundled_texts
from qbench.sources.data.documents import Documents, joined, of_rows, parted

LARGEST_BYTES = 2**31
"""Of a text: it is held in memory whole."""
ROWS_SUFFIX = ".jsonl"
"""Of a file with a document a row."""
_PLAIN_SUFFIXES = (".txt", ".md", ".raw")
_TEXT_SUFFIXES = (*_PLAIN_SUFFIXES, ROWS_SUFFIX)


class ResolvedText(Frozen):
    """A text that was found."""

    name: str
    """Short and safe in file names."""
    source: str
    """As written in the suite."""
    kind: Literal["bundled", "file", "rows", "folder", "hub"]
    """`rows` is a file with a document a row, `folder` one of files that are documents."""
    location: str
    """The absolute path; for bundled texts and hub data the name they are found by."""
    fingerprint: str | None
    """sha256 of the file's contents, of rows with the column, of a folder's files with their names;
    repository, configuration, split and commit of hub data."""


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
    `.jsonl` one has a document a row), a folder of files or a name in `DATASETS`. Raises
    `TextError` when there is no such text, or it is empty or not UTF-8.
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
    looks_like_file = looks_like_file or (path.is_dir() and source not in DATASETS)
    if looks_like_file or path.is_file():
        kind = _kind(path)
        _, fingerprint = _read_at(path, source, kind)
        return ResolvedText(
            name=slugify(path.resolve().name if kind == "folder" else path.stem),
            source=source,
            kind=kind,
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
    found, fingerprint = _read_at(path, text.source, text.kind)
    if fingerprint != text.fingerprint:
        what = "folder's files have" if text.kind == "folder" else "file has"
        raise TextError(
            f"{text.source}: the {what} changed since the run was planned; start the run again"
        )
    return found


def _kind(path: Path) -> Literal["file", "rows", "folder"]:
    if path.is_dir():
        return "folder"
    return "rows" if path.suffix.lower() == ROWS_SUFFIX else "file"


def _read_at(path: Path, source: str, kind: str) -> tuple[Documents, str]:
    """The text at a place on this machine, with its fingerprint."""
    if kind == "folder":
        return _read_folder(path, source)
    contents, fingerprint = read_file(path, source)
    if kind != "rows":
        return Documents(contents), fingerprint
    column, found = of_rows(contents, source)
    return found, f"{fingerprint}/{column}"


def _read_folder(folder: Path, source: str) -> tuple[Documents, str]:
    """The texts that lie in a folder, by name, each a document; their fingerprint is of all."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise TextError(
            f"{source}: the folder cannot be read: {error.strerror or error}; check the permissions"
        ) from error
    paths = [one for one in found if one.suffix.lower() in _PLAIN_SUFFIXES]
    if not paths:
        raise TextError(
            f"{source}: found a folder without a text in it; expected files that end in"
            f" {', '.join(_PLAIN_SUFFIXES)}, each a document; name a file, or put them there"
        )
    digest, texts, size = hashlib.sha256(), [], 0
    for path in paths:
        contents, fingerprint = read_file(path, f"{source}: {path.name}")
        digest.update(f"{path.name}\0{fingerprint}\n".encode())
        texts.append(contents)
        size += len(contents)
        if size > LARGEST_BYTES:
            raise TextError(
                f"{source}: the files are longer than {LARGEST_BYTES:,} characters together; take"
                " some out"
            )
    return joined(texts), digest.hexdigest()


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
            f"{text.source}: needs datasets: {install_command(['datasets'])}, or give a text file"
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
