"""How long what is left of a run will take, from the records taken so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.record import Record
    from qbench.core.spec import Item
    from qbench.plan.job import Job, Task

_Item = tuple[str, str, str]
"""A kind of device, and a measurement and a slug of it: an item of all repeats."""
_Place = tuple[str, _Item]
"""A cell's slug and one of its items."""


class Estimate:
    """Seconds by item: of the same cell's repeats, else of the same item in other cells.

    What one kind of device takes says nothing of another.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._by_cell: dict[_Place, _Mean] = {}
        self._by_item: dict[_Item, _Mean] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learns from a record that says how long it took."""
        if record.duration_s is None or record.status != "ok":
            return
        place = _place(record, record.item)
        self._by_cell.setdefault(place, _Mean()).add(record.duration_s)
        self._by_item.setdefault(place[1], _Mean()).add(record.duration_s)

    def of_cell(self, place: _Place) -> float | None:
        """Seconds of an item by the cell's own records; None where there are none."""
        known = self._by_cell.get(place)
        return None if known is None else known.value

    def of_item(self, item: _Item) -> float | None:
        """Seconds of an item by the records of all cells; None where there are none."""
        known = self._by_item.get(item)
        return None if known is None else known.value

    def seconds(self, tasks: Iterable[tuple[Job, Task]]) -> float | None:
        """Seconds for all the tasks; None while there is one that nothing is known of."""
        total = 0.0
        for job, task in tasks:
            place = _place(job, task.item)
            own = self.of_cell(place)
            known = self.of_item(place[1]) if own is None else own
            if known is None:
                return None
            total += known
        return total


class Left:
    """The tasks that are left: how long they take is told without going over all of them.

    A run shows it several times a second, of what may be a hundred thousand tasks.
    """

    def __init__(self, estimate: Estimate) -> None:
        """`estimate` learns from here alone what records say."""
        self._estimate = estimate
        self._places: dict[str, _Place] = {}
        self._counts = Counter[_Place]()
        self._without_own = Counter[_Item]()
        """Of those counted, the tasks of cells whose own records say nothing of the item."""
        self._with_own_s = 0.0
        """Seconds of the others."""

    def expect(self, tasks: Iterable[tuple[Job, Task]]) -> None:
        """Further tasks are left."""
        for job, task in tasks:
            if task.key not in self._places:
                place = _place(job, task.item)
                self._places[task.key] = place
                self._count(place, 1)

    def __len__(self) -> int:
        """Tasks that are left."""
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        """Whether the task of that key is left."""
        return key in self._places

    def recorded(self, record: Record) -> None:
        """A record is there: its task is not left, and what it took is known of the others."""
        done = self._places.pop(record.key, None)
        if done is not None:
            self._count(done, -1)
        place = _place(record, record.item)
        others = self._counts[place]
        self._count(place, -others)
        self._estimate.add(record)
        self._count(place, others)

    @property
    def seconds(self) -> float | None:
        """Seconds for all of them; None while there is one that nothing is known of."""
        total = self._with_own_s
        for item, count in self._without_own.items():
            known = self._estimate.of_item(item) if count else 0.0
            if known is None:
                return None
            total += count * known
        return total

    def _count(self, place: _Place, tasks: int) -> None:
        """Counts so many more tasks, or fewer, by what is known of them now."""
        self._counts[place] += tasks
        own = self._estimate.of_cell(place)
        if own is None:
            self._without_own[place[1]] += tasks
        else:
            self._with_own_s += tasks * own


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count


def _place(of: Job | Record, item: Item) -> _Place:
    return of.cell.slug, (of.environment.device_kind, item.measurement, item.slug)
