"""Runs jobs side by side, one in each slot, each after those whose results it needs.

A thread a slot sleeps while its worker works: all computing is in the workers' processes.
"""

from __future__ import annotations

import heapq
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
    """Runs each job in a free slot of its kind of device, those of the largest models first.

    `run_one` is called in threads, never twice at once for one slot. When one raises, or the user
    interrupts, `interrupt` must make the others end; then the exception is raised.
    """
    kinds = [job.environment.device_kind for job in jobs]
    order = Order(kinds, dependencies(jobs), ranks_of(jobs))
    free = {kind: [slot for slot in slots if slot.kind == kind] for kind in {*order.ready}}
    under_way: dict[Future[None], tuple[int, Slot]] = {}
    with ThreadPoolExecutor(len(slots)) as threads:
        try:
            while order.left:
                for kind, ready in order.ready.items():
                    while ready and free[kind]:
                        (_, at), slot = heapq.heappop(ready), free[kind].pop(0)
                        under_way[threads.submit(run_one, jobs[at], slot)] = at, slot
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    at, slot = under_way.pop(future)
                    order.ended(at)
                    free[slot.kind].append(slot)
                    future.result()  # raises what it raised
        except BaseException:
            interrupt()
            raise


class Order:
    """Which jobs may begin: those that need none that has not ended."""

    def __init__(
        self,
        kinds: Sequence[str],
        needed: Sequence[Iterable[int]],
        ranks: Sequence[float],
    ) -> None:
        """Of each job the kind of its device, the places of those it needs, and its rank.

        Of two jobs the one of the lower rank begins first, then the one in the lower place.
        """
        self._kinds, self._ranks = kinds, ranks
        self._unmet = [0] * len(kinds)
        self._waiting: dict[int, list[int]] = {}
        """By a job's place, those of the jobs that need it."""
        for at, earlier in enumerate(needed):
            for one in earlier:
                self._unmet[at] += 1
                self._waiting.setdefault(one, []).append(at)
        self.ready: dict[str, list[tuple[float, int]]] = {kind: [] for kind in kinds}
        """By the kind of their device, a heap of the ranks and places of those that may begin."""
        for at, unmet in enumerate(self._unmet):
            if not unmet:
                self._add(at)
        self.left = len(kinds)

    def ended(self, at: int) -> None:
        """A job has ended: others may begin."""
        self.left -= 1
        for one in self._waiting.get(at, ()):
            self._unmet[one] -= 1
            if not self._unmet[one]:
                self._add(one)

    def _add(self, at: int) -> None:
        heapq.heappush(self.ready[self._kinds[at]], (self._ranks[at], at))


def ranks_of(jobs: Sequence[Job]) -> list[float]:
    """Large models first: what takes longest does not begin when all else is done.

    The jobs of one model keep their order, so that the repeats of its timings stay interleaved.
    """
    return [0.0 if job.model.shape is None else -float(job.model.shape.weights) for job in jobs]
