"""Runs jobs side by side, one in each slot, each after those whose results it needs.

A thread a slot sleeps while its worker works: all computing is in the workers' processes.
"""

from __future__ import annotations

import heapq
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.plan.job import Job
    from qbench.running.executors.executor import Slot


def dependencies(jobs: Sequence[Job]) -> list[frozenset[int]]:
    """For each job the places of the earlier ones that must have ended before it.

    Those that make the tuned model, the reference's states or the sensitivities that it uses, and
    those of the same cell, whose log it shares.
    """
    of_cell: dict[tuple[str, str], list[int]] = {}
    makers: dict[str | None, list[int]] = {}
    found = []
    for at, job in enumerate(jobs):
        made = {job.artifact_key, job.sensitivities_key}
        made |= {task.item.states_key for task in job.tasks}
        cell = job.environment.device_kind, job.cell.slug
        earlier = set(of_cell.get(cell, ()))
        found.append(frozenset(earlier.union(*(makers.get(key, ()) for key in made))))
        of_cell.setdefault(cell, []).append(at)
        for task in job.tasks:
            makers.setdefault(task.key, []).append(at)
    return found


def run_side_by_side(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    run_one: Callable[[Job, Slot], None],
    interrupt: Callable[[], None],
) -> None:
    """Runs each job in a free slot of its kind of device, the first ones first.

    `run_one` is called in threads, never twice at once for one slot. When one raises, or the user
    interrupts, `interrupt` must make the others end; then the exception is raised.
    """
    order = _Order(jobs)
    free = {kind: [slot for slot in slots if slot.kind == kind] for kind in {*order.ready}}
    under_way: dict[Future[None], tuple[int, Slot]] = {}
    with ThreadPoolExecutor(len(slots)) as threads:
        try:
            while order.left:
                for kind, ready in order.ready.items():
                    while ready and free[kind]:
                        at, slot = heapq.heappop(ready), free[kind].pop(0)
                        under_way[threads.submit(run_one, jobs[at], slot)] = at, slot
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    at, slot = under_way.pop(future)
                    order.ended(at)
                    free[slot.kind].append(slot)
                    future.result()  # raises what it raised
        except BaseException:
            interrupt()
            raise


class _Order:
    """Which jobs may begin: those that need none that has not ended."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._kinds = [job.environment.device_kind for job in jobs]
        needed = dependencies(jobs)
        self._unmet = list(map(len, needed))
        self._waiting: dict[int, list[int]] = {}
        """By a job's place, those of the jobs that need it."""
        for at, earlier in enumerate(needed):
            for one in earlier:
                self._waiting.setdefault(one, []).append(at)
        self.ready: dict[str, list[int]] = {kind: [] for kind in self._kinds}
        """By the kind of their device, a heap of the places of those that may begin."""
        for at, unmet in enumerate(self._unmet):
            if not unmet:
                self.ready[self._kinds[at]].append(at)  # in order: a heap
        self.left = len(jobs)

    def ended(self, at: int) -> None:
        self.left -= 1
        for one in self._waiting.get(at, ()):
            self._unmet[one] -= 1
            if not self._unmet[one]:
                heapq.heappush(self.ready[self._kinds[one]], one)
