"""The files that an export writes into a folder, and what it has to leave out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.core.page_data import finite
from qbench.core.spec import slugify
from qbench.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import PurePosixPath

    from qbench.core.record import Record

_LONGEST_PART = 150
"""Characters of a name within a path: file systems allow 255, and dates and endings follow."""


class ExportedFile(NamedTuple):
    """A file, by its place below the folder that a person names."""

    path: PurePosixPath
    text: str


@dataclass(frozen=True)
class Exported:
    """What an export makes of records."""

    files: tuple[ExportedFile, ...]
    notes: tuple[str, ...] = ()
    """What was left out, as the form has no place for it or the records do not hold it, and what
    else there is to know: a sentence each."""


def part_of_path(text: str) -> str:
    """A name as one part of a path, whatever a stranger's record holds: it leads nowhere else."""
    return slugify(text)[:_LONGEST_PART]


def told_once(reasons: Iterable[str], what: str) -> list[str]:
    """Each reason with how many of `what` it is of: `left out: 3 figures: …`."""
    return [
        f"left out: {counted(number, what)}: {reason}"
        for reason, number in Counter(reasons).items()
    ]


def as_json(document: Any, *, indent: int | None = 2) -> str:
    """Strict JSON with a line's end, the keys in their order; without an indent in one line.

    Numbers that JSON has none of, which a plug-in's details may hold, are null.
    """
    text = json.dumps(finite(document), indent=indent, ensure_ascii=False, allow_nan=False)
    return f"{text}\n"


def strings(values: Mapping[str, Any]) -> dict[str, str]:
    """Each value as a text, those that are no texts as JSON; what is None is left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        for name, value in values.items()
        if value is not None
    }


def started(record: Record) -> datetime | None:
    """When it was begun, in UTC; None where the record does not say so in ISO 8601."""
    try:
        moment = datetime.fromisoformat(record.started_at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def ended(record: Record) -> datetime | None:
    """When it was done; its start where it does not say how long it took."""
    begun = started(record)
    try:
        return begun and begun + timedelta(seconds=record.duration_s or 0)
    except (ValueError, OverflowError):
        return begun
