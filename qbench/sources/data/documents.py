"""The documents that a text consists of: joined to one, with the place where each begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.errors import TextError
from qbench.sources.data.rows import json_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

SEPARATOR = "\n\n"
"""Between the rows of a file, as between those of wikitext."""
_USUAL = "text"


@dataclass(frozen=True)
class Documents:
    """A text, and where its documents begin."""

    text: str
    starts: tuple[int, ...] | None = None
    """Characters from the beginning of the text, ascending, the first 0; None where it is not known
    to consist of documents."""


def joined(documents: Sequence[str], separator: str = SEPARATOR) -> Documents:
    """Documents after one another."""
    starts, at = [], 0
    for one in documents:
        starts.append(at)
        at += len(one) + len(separator)
    return Documents(separator.join(documents), tuple(starts))


def parted(text: str, beginning: str) -> Documents:
    """A text whose documents begin with a line that matches the pattern `beginning`."""
    found = [match.start() for match in re.finditer(beginning, text, re.MULTILINE)]
    return Documents(text, (0, *found[1:]) if found else None)


def of_rows(contents: str, source: str) -> tuple[str, Documents]:
    """The column of a JSONL file that holds its documents, and these, one a row.

    It is `text`, or the only one that is text in each row. Rows without words are left out. Raises
    `TextError` for contents of another kind.
    """
    rows = json_rows(contents, source)
    names = {name: None for row in rows for name in row}
    texts = [name for name in names if all(isinstance(row.get(name), str) for row in rows)]
    column = _USUAL if _USUAL in texts else texts[0] if len(texts) == 1 else None
    if column is None:
        found = f"the columns {', '.join(texts)}" if texts else "no column that is text in each row"
        raise TextError(
            f"{source}: found {found}; expected a document a row in the column {_USUAL}, or in the"
            f" only one of text; rename the one that holds the documents to {_USUAL}"
        )
    documents = [row[column] for row in rows if row[column].strip()]
    if not documents:
        raise TextError(f"{source}: all rows are empty; expected some text")
    return column, joined(documents)
