"""Report files: one a suite and device, named after both; or one of several, named after all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import StoreError
from qbench.core.files import write_atomically
from qbench.core.spec import LONGEST_NAME, slugify
from qbench.report.rehearsals import is_rehearsal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.core.record import Record
    from qbench.report.format import Format, Subject


def by_suite(records: Sequence[Record]) -> list[list[Record]]:
    """The records apart by suite and device, a rehearsal's too, each part in the order given."""
    parts: dict[tuple[str, str, bool], list[Record]] = {}
    for record in records:
        place = (record.suite, record.environment.device_kind, bool(record.rehearsal))
        parts.setdefault(place, []).append(record)
    return list(parts.values())


def together(records: Sequence[Record]) -> list[list[Record]]:
    """All records in one part, those of rehearsals in another."""
    parts: dict[bool, list[Record]] = {}
    for record in records:
        parts.setdefault(bool(record.rehearsal), []).append(record)
    return list(parts.values())


def write_report(report: Subject, folder: Path, form: Format) -> Path:
    """Writes one report, whole or not at all; raises `StoreError` if it cannot."""
    records = report.records or ()
    mark = "-rehearsal" if is_rehearsal(records) else ""
    suite = "+".join(dict.fromkeys(slugify(record.suite) for record in records))
    kind = "+".join(dict.fromkeys(record.environment.device_kind for record in records))
    path = folder / f"{suite[:LONGEST_NAME]}{mark}-{kind[:LONGEST_NAME]}{form.suffix}"
    try:
        write_atomically(path, form.render(report))
    except OSError as error:
        raise StoreError(
            f"{path}: the report cannot be written ({error.strerror}); the records are safe:"
            " `qbench report --reports FOLDER` writes it elsewhere"
        ) from error
    return path
