"""Runs jobs side by side, one a device, each after those whose results it needs.

A thread a device sleeps while its worker works: all computing is in the workers' processes.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.plan.job import Job


def dependencies(jobs: Sequence[Job]) -> list[frozenset[int]]:
    """For each job the places of the earlier ones that must have ended before it.

    Those that make the tuned model, the reference's states or the sensitivities that it uses, and
    those of the same cell, whose log it shares.
    """
    of_cell: dict[str, list[int]] = {}
    makers: dict[str | None, list[int]] = {}
    found = []
    for at, job in enumerate(jobs):
        made = {job.artifact_key, job.sensitivities_key}
        made |= {task.item.states_key for task in job.tasks}
        earlier = set(of_cell.get(job.cell.slug, ()))
        found.append(frozenset(earlier.union(*(makers.get(key, ()) for key in made))))
        of_cell.setdefault(job.cell.slug, []).append(at)
        for task in job.tasks:
            makers.setdefault(task.key, []).append(at)
    return found


def run_side_by_side(
    jobs: Sequence[Job],
    devices: Sequence[str],
    run_one: Callable[[Job, str], None],
    interrupt: Callable[[], None],
) -> None:
    """Runs each job on a device that is free, the first ones first.

    `run_one` is called in threads, never twice at once for one device. When one raises, or the user
    interrupts, `interrupt` must make the others end; then the exception is raised.
    """
    needed = dependencies(jobs)
    waiting = list(range(len(jobs)))
    free, ended = list(devices), set[int]()
    under_way: dict[Future[None], tuple[int, str]] = {}
    with ThreadPoolExecutor(len(devices)) as threads:
        try:
            while waiting or under_way:
                for at in [one for one in waiting if needed[one] <= ended][: len(free)]:
                    waiting.remove(at)
                    device = free.pop(0)
                    under_way[threads.submit(run_one, jobs[at], device)] = at, device
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    at, device = under_way.pop(future)
                    ended.add(at)
                    free.append(device)
                    future.result()  # raises what it raised
        except BaseException:
            interrupt()
            raise
