"""How long what is left of a run will take, from the records taken so far."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.record import Record
    from qbench.plan.job import Job, Task


class Estimate:
    """Seconds by item: of the same cell's repeats, else of the same item in other cells."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._by_cell: dict[tuple[str, str, str], list[float]] = {}
        self._by_item: dict[tuple[str, str], list[float]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learns from a record that says how long it took."""
        if record.duration_s is None or record.status != "ok":
            return
        name, slug = record.item.measurement, record.item.slug
        self._by_cell.setdefault((record.cell.slug, name, slug), []).append(record.duration_s)
        self._by_item.setdefault((name, slug), []).append(record.duration_s)

    def seconds(self, tasks: Iterable[tuple[Job, Task]]) -> float | None:
        """Seconds for all the tasks; None while there is one that nothing is known of."""
        total = 0.0
        for job, task in tasks:
            known = self._by_cell.get(
                (job.cell.slug, task.item.measurement, task.item.slug)
            ) or self._by_item.get((task.item.measurement, task.item.slug))
            if not known:
                return None
            total += statistics.fmean(known)
        return total
