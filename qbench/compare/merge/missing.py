"""What of a suite has no record, device by device: by what is to be measured, not by key.

Keys hold the device and the versions of packages, which are those of the machines that measured,
not of the one that joins.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.compare.merge.takes import What, meant_by, what_of
from qbench.core.errors import StoreError
from qbench.core.record_files import paths_of, record_files
from qbench.core.spec import slugify
from qbench.core.store import read_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.merge.merge import Merged
    from qbench.core.record import Status
    from qbench.core.spec import Cell, Item


class Asked(NamedTuple):
    """A measurement that a suite asks for."""

    cell: Cell
    item: Item
    meant: str
    """See `meant_by`."""


class Lacking(NamedTuple):
    """One of a cell that has no record."""

    measurement: str
    item: str
    repeat: int
    otherwise: bool
    """Whether there is one of another protocol, of other contents or of other options."""


@dataclass(frozen=True)
class Completeness:
    """How much of a suite there are records of, on one kind of device."""

    suite: str
    file: str
    """The suite's, as it was named on the command line."""
    device: str | None
    """None where no device has a record of the suite."""
    cells: tuple[tuple[str, int, tuple[Lacking, ...]], ...]
    """Each cell of the suite with its number of measurements, and those without a record."""
    statuses: Counter[Status]
    """Records of what is asked for, the newest of each."""
    rehearsed: int = 0
    """Records of rehearsals that were joined, which do not count."""

    @property
    def asked(self) -> int:
        """Measurements that the suite asks for."""
        return sum(count for _, count, _ in self.cells)

    @property
    def missing(self) -> int:
        """Those of them without a record."""
        return sum(len(lacking) for *_, lacking in self.cells)

    @property
    def otherwise(self) -> int:
        """Those of the missing that were measured otherwise."""
        return sum(one.otherwise for *_, lacking in self.cells for one in lacking)

    @property
    def failed(self) -> int:
        """Records of what failed."""
        return sum(n for status, n in self.statuses.items() if status not in {"ok", "skipped"})

    @property
    def words(self) -> list[str]:
        """A line for each cell that lacks records."""
        return [
            f"{cell}: {'all of its ' if len(lacking) == count else ''}{_listed(lacking)}"
            for cell, count, lacking in self.cells
            if lacking
        ]

    @property
    def data(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "suite": self.suite,
            "device": self.device,
            "measurements": self.asked,
            "statuses": dict(self.statuses),
            "rehearsed": self.rehearsed,
            "missing": [
                {"cell": cell, **one._asdict()}
                for cell, _, lacking in self.cells
                for one in lacking
            ],
        }


def completeness(
    suite: str, file: str, expected: Sequence[Asked], merged: Merged
) -> list[Completeness]:
    """How complete the suite is in the folder that was joined, for each device with a record of it.

    `expected` is all that it asks for. Rehearsals do not count.
    """
    statuses = _statuses(suite, merged)
    known = {what for what, _ in statuses}
    rehearsed = sum(take.rehearsal and take.what.suite == suite for take in merged.kept)
    found = []
    for device in dict.fromkeys(what.device for what, _ in statuses) or (None,):
        cells: dict[str, list[Lacking]] = {one.cell.slug: [] for one in expected}
        counts: Counter[Status] = Counter()
        for cell, item, meant in expected:
            place = (item.measurement, item.slug, item.repeat)
            what = What(suite, device or "", cell.slug, *place)
            if status := statuses.get((what, meant)):
                counts[status] += 1
            else:
                cells[cell.slug].append(Lacking(*place, otherwise=what in known))
        sizes = Counter(one.cell.slug for one in expected)
        told = tuple((slug, sizes[slug], tuple(lacking)) for slug, lacking in cells.items())
        found.append(Completeness(suite, file, device, told, counts, rehearsed))
    return found


def _statuses(suite: str, merged: Merged) -> dict[tuple[What, str], Status]:
    """The newest status of all that the target has a record of, or would have."""
    takes = [
        (take.started_at, (take.what, take.meant), take.status)
        for take in merged.kept
        if not take.rehearsal and take.what.suite == suite
    ]
    known = {merged.target / take.place for take in merged.kept}
    try:
        files = record_files(merged.target / slugify(suite))
    except StoreError:  # there is none
        files = []
    records, _ = read_files(path for path in paths_of(files) if path not in known)
    takes += [
        (
            record.started_at,
            (what_of(record), meant_by(record.identity, record.protocol)),
            record.status,
        )
        for record in records
        if not record.rehearsal and record.suite == suite
    ]
    return {meant: status for _, meant, status in sorted(takes, key=lambda one: one[0])}


def _listed(lacking: Iterable[Lacking]) -> str:
    counts = Counter(
        f"{one.measurement} {one.item}{' (measured otherwise)' if one.otherwise else ''}"
        for one in lacking
    )
    return ", ".join(name if count == 1 else f"{name} × {count}" for name, count in counts.items())
