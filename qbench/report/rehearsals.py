"""How a report says that its records are a rehearsal's: first of all, and in the file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.record import Record

BANNER = (
    "REHEARSAL: these figures are those of small replacements, not of the suite's own models."
    " They show that every cell and measurement runs, and nothing else."
)


def is_rehearsal(records: Iterable[Record]) -> bool:
    """Whether one of the records is a rehearsal's."""
    return any(record.rehearsal for record in records)


def rehearsal_notes(records: Sequence[Record]) -> list[str]:
    """What was replaced, shortened, and cannot be shown; nothing for real records."""
    return list(dict.fromkeys(note for record in records for note in record.rehearsal))
