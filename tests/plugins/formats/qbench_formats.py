"""A plug-in package with a format of any page, and one of records, written beside every report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.plugin import Format, Heading, Page, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plugin import Record


def outline(page: Page) -> str:
    """The headings of a page, and the size of its tables."""
    lines = [page.title]
    for part in page.parts:
        if isinstance(part, Heading):
            lines.append(f"{'  ' * part.level}{part.text}")
        elif isinstance(part, Table):
            lines.append(f"{len(part.rows)} rows of {len(part.columns)} columns")
    return "".join(f"{line}\n" for line in lines)


def statuses(records: Sequence[Record]) -> bytes:
    """One byte a record."""
    return b"".join(record.status[0].encode() for record in records)


FORMATS = (
    Format("outline", ".outline.txt", "headings and tables", page=outline),
    Format("statuses", ".bin", "a byte a record", records=statuses, written=True),
)
