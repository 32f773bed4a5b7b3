"""What of a suite has no record, device by device: by cell and item, not by key.

Keys hold the device and the versions of packages, which are those of the machines that measured,
not of the one that joins.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.compare.merge.takes import what_of
from qbench.core.errors import StoreError
from qbench.core.spec import slugify
from qbench.core.store import read_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.merge.merge import Merged
    from qbench.compare.merge.takes import What
    from qbench.core.record import Status
    from qbench.core.spec import Cell, Item


@dataclass(frozen=True)
class Completeness:
    """How much of a suite there are records of, on one kind of device."""

    suite: str
    file: str
    """The suite's, as it was named on the command line."""
    device: str | None
    """None where no device has a record of the suite."""
    cells: tuple[tuple[str, int, tuple[tuple[str, str, int], ...]], ...]
    """Each cell of the suite with its number of measurements, and those without a record: name,
    item and repeat."""
    statuses: Counter[Status]
    """Records of what is asked for, the newest of each."""

    @property
    def asked(self) -> int:
        """Measurements that the suite asks for."""
        return sum(count for _, count, _ in self.cells)

    @property
    def missing(self) -> int:
        """Those of them without a record."""
        return sum(len(lacking) for *_, lacking in self.cells)

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
            "missing": [
                {"cell": cell, "measurement": name, "item": item, "repeat": repeat}
                for cell, _, lacking in self.cells
                for name, item, repeat in lacking
            ],
        }


def completeness(
    suite: str, file: str, expected: Sequence[tuple[Cell, Item]], merged: Merged
) -> list[Completeness]:
    """How complete the suite is in the folder that was joined, for each device with a record of it.

    `expected` are all its cells with their items. Rehearsals do not count.
    """
    statuses = _statuses(suite, merged)
    devices = dict.fromkeys(what.device for what in statuses)
    asked: dict[str, list[tuple[str, str, int]]] = {}
    for cell, item in expected:
        asked.setdefault(cell.slug, []).append((item.measurement, item.slug, item.repeat))
    found = []
    for device in devices or (None,):
        there = {
            (what.cell, what.measurement, what.item, what.repeat): status
            for what, status in statuses.items()
            if what.device == device
        }
        cells = tuple(
            (slug, len(items), tuple(one for one in items if (slug, *one) not in there))
            for slug, items in asked.items()
        )
        counts = Counter(
            there[slug, *one]
            for slug, items in asked.items()
            for one in items
            if (slug, *one) in there
        )
        found.append(Completeness(suite, file, device, cells, counts))
    return found


def _statuses(suite: str, merged: Merged) -> dict[What, Status]:
    """The newest status of all that the target has a record of, or would have."""
    takes: list[tuple[str, What, Status]] = [
        (take.started_at, take.what, take.status)
        for take in merged.kept
        if not take.rehearsal and take.what.suite == suite
    ]
    try:
        records, _ = read_folder(merged.target / slugify(suite))
    except StoreError:  # there is none
        records = []
    takes += [
        (record.started_at, what_of(record), record.status)
        for record in records
        if not record.rehearsal and record.suite == suite
    ]
    return {what: status for _, what, status in sorted(takes, key=lambda one: one[0])}


def _listed(lacking: Iterable[tuple[str, str, int]]) -> str:
    counts = Counter(f"{name} {item}" for name, item, _ in lacking)
    return ", ".join(name if count == 1 else f"{name} × {count}" for name, count in counts.items())
