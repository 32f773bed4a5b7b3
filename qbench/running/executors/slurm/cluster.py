"""The engine of a Slurm cluster: a look at a node of each kind, then each cell's jobs in an array.

What the driver and the jobs tell each other lies in the cache folder, which all nodes must see.
With `slurm:local` submitit starts the same jobs as processes of this machine, for trying it out.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qbench.core.cache import cache_folder
from qbench.core.errors import UsageError
from qbench.core.git import git_revision
from qbench.core.packages import missing_packages
from qbench.core.store import check_writable
from qbench.plan.suite.cluster import SlurmSection
from qbench.running.executors.executor import Column
from qbench.running.executors.slurm.asking import AT_ONCE, requests, resources, several
from qbench.running.executors.slurm.folder import SlurmFolder, gather
from qbench.running.executors.slurm.on_node import Look, Seen, kept
from qbench.running.executors.slurm.places import (
    POLL_S,
    POLLS_AFTER_ITS_END,
    Earlier,
    SlurmExecutor,
)
from qbench.running.executors.slurm.submitting import Queue
from qbench.running.preflight.check import problems as problems_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.errors import Problem
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.plan.suite.cluster import GpuRequest
    from qbench.plan.suite.suite import Suite
    from qbench.running.executors.executor import Asked, Executor, Slot
    from qbench.running.executors.slurm.asking import Resources
    from qbench.running.executors.slurm.folder import Entry, Submitted

LOCAL = "slurm:local"
_ENDS_WITHIN_S = 10.0


@dataclass
class _Node:
    """What a look found, and the look itself."""

    gpus: GpuRequest | None
    """None of a column on CPUs."""
    several: int
    """GPUs of a job whose model is laid over several."""
    look: tuple[Entry, Submitted] | None = None
    plan: Plan | None = None
    threads: int = 0

    def asks(self, suite: Suite, job: Job | None, *, local: bool) -> Resources:
        """What a job asks for; a look for None."""
        spread = job is None or job.cell.model.device_map is not None
        gpus = (self.several if spread else 1) if self.gpus else 0
        kind = self.gpus.kind if self.gpus else None
        return resources(suite, kind, gpus, look=job is None, local=local)


class Slurm:
    """Runs jobs in Slurm; a context manager that leaves no job there."""

    def __init__(self, on: str, suite: Suite, device: str | None, gpus: str | None) -> None:
        """`on` is `slurm` or `slurm:local`, `gpus` such as `h100,a100:4`. Raises `UsageError`."""
        if on not in ("slurm", LOCAL):
            raise UsageError(f"--on {on!r}: expected slurm, or {LOCAL} to try it on this machine")
        self._local = on == LOCAL
        lacking = missing_packages(("submitit",))
        if lacking:
            raise UsageError(f"--on slurm {lacking}")
        _import_submitit()
        programs = ("sbatch", "srun", "squeue", "scancel")
        missing = [name for name in programs if shutil.which(name) is None]
        if missing and not self._local:
            raise UsageError(
                f"--on slurm: found no {missing[0]} on this machine; start it where jobs are"
                f" submitted from, such as a login node, or try it here with --on {LOCAL}"
            )
        self._section = suite.cluster.slurm or SlurmSection()
        if self._section.setup and not suite.trust_code:
            raise UsageError(
                str(
                    suite.problem(
                        "cluster.slurm.setup",
                        "lines of shell",
                        "none that the suite does not let run",
                        "read them and add `trust_code: true` to the suite, or leave them out",
                    )
                )
            )
        self._suite = suite
        wanted = requests(self._section, device, gpus)
        self._nodes = [_Node(one, several(suite, one)) for one in wanted]
        self._cache = str(cache_folder().absolute())
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Ends looks; after an interrupt also what an earlier run submitted and nobody took.

        Else such jobs run on, as what they measure was not asked for now.
        """
        if self._lock is None:
            return
        for node in self._nodes:
            if node.look is not None:
                self._end_look(*node.look)
        if any(isinstance(one, KeyboardInterrupt) for one in raised):
            self._earlier.end()
        self._queue.clean()
        os.close(self._lock)

    def columns(self, asked: Asked) -> list[Column]:
        """The suite on a node of each kind that was asked for, once Slurm has started a look there.

        Before that, what jobs of an earlier run measured since is written to its place. Raises
        `UsageError`.
        """
        check_writable(asked.results)  # before anybody waits for a node
        self._folder = SlurmFolder(self._suite, asked.results)
        self._lock = self._folder.held()
        self._queue = Queue(self._folder.submitit, local=self._local)
        self._earlier = Earlier(self._queue)
        self._gather()
        self._asked = replace(asked, results=asked.results.absolute())
        for node in self._nodes:
            self._start_look(node)
            what = f"with {node.gpus}" if node.gpus else "for CPUs"
            if not self._local:
                _, submitted = self._look(node)
                asked.note(f"Slurm: waiting for a look at a node {what}, job {submitted.id}")
        return [self._column(node) for node in self._nodes]

    def problems(self, column: Column, jobs: Sequence[Job], results: Path) -> list[Problem]:
        """What the look finds on its node; a new one where that of the plan has ended."""
        node = self._of(column.kind)
        entry, _ = self._look(node)
        if not jobs:
            entry.ask(None)
            return problems_here(column.plan, (), results)
        entry.ask(list(jobs))
        if not self._waited_for(node, "looked"):
            # It waited in vain while those of other columns were still in the queue, and ended.
            self._end_look(*self._look(node))
            self._start_look(node)
            entry, _ = self._look(node)
            entry.ask(list(jobs))
            if not self._waited_for(node, "looked"):
                raise self._in_vain(node, "ended before it had looked for problems")
        found: list[Problem] = kept(entry, "problems.pkl")
        return found

    def executor(self, slot: Slot, jobs: Sequence[Job]) -> Executor:
        """One that has at most one job in Slurm."""
        node = self._of(slot.kind)
        return SlurmExecutor(
            self._folder,
            self._queue,
            self._earlier,
            lambda job: node.asks(self._suite, job, local=self._local),
            cache=self._cache,
            threads=node.threads,
        )

    def _gather(self) -> None:
        """Takes in what an earlier run's jobs told after it had ended."""
        for entry in self._folder.entries():
            submitted = entry.submitted()
            if entry.is_look or (submitted is None and entry.take_back()):
                self._end_look(entry, submitted)
                continue
            read = gather(entry)
            if submitted is not None and not entry.has_ended and not self._queue.gone(submitted):
                self._earlier.add(entry, submitted, read)
                continue
            if submitted is not None and entry.has_ended:
                self._queue.forget(submitted)
            entry.remove()

    def _start_look(self, node: _Node) -> None:
        entry = self._folder.add_look()
        device = "cuda:0" if node.gpus else "cpu"
        look = Look(str(entry.folder), self._cache, self._asked, device, git_revision(Path.cwd()))
        try:
            submitted = self._queue.submit(look, node.asks(self._suite, None, local=self._local))
        except BaseException:
            entry.take_back()  # else one that Slurm took meanwhile would wait for the driver
            entry.remove()
            raise
        entry.keep_submitted(submitted)
        node.look = entry, submitted

    def _end_look(self, entry: Entry, submitted: Submitted | None) -> None:
        """Ends a look, or waits a little for one that ends by itself."""
        if entry.asked() is not None:
            until = time.monotonic() + _ENDS_WITHIN_S
            while not self._ended(entry, submitted) and time.monotonic() < until:
                time.sleep(POLL_S)
        entry.take_back()
        if submitted is not None:
            if not entry.has_ended:
                self._queue.cancel([submitted])
            self._queue.forget(submitted)
        entry.remove()

    def _ended(self, entry: Entry, submitted: Submitted | None) -> bool:
        return entry.has_ended or submitted is None or self._queue.gone(submitted) is not None

    def _column(self, node: _Node) -> Column:
        """The plan of a node, once its look has made it."""
        if not self._waited_for(node, "planned"):
            raise self._in_vain(
                node,
                f"ended without a word: nodes may not see {self._folder.path}, or have no qbench in"
                " the same place; name a cache folder that all of them see with QBENCH_CACHE",
            )
        entry, _ = self._look(node)
        seen: Seen = kept(entry, "plan.pkl")
        if seen.plan is None:
            raise UsageError(f"on a node of Slurm: {seen.error}")
        node.plan, node.threads = seen.plan, seen.threads
        kind = seen.plan.environment.device_kind
        if self._of(kind) is not node:
            raise UsageError(
                f"--on slurm: {node.gpus} and {self._of(kind).gpus} are both {kind}, whose figures"
                " stand in one column; name each kind of GPU once"
            )
        count = self._section.at_once or (1 if self._local else AT_ONCE)
        return Column(seen.plan, tuple(f"{kind} {number + 1}" for number in range(count)))

    def _waited_for(self, node: _Node, event: str) -> bool:
        """Waits until a look has told something; False where it ended before."""
        entry, submitted = self._look(node)
        polls = 0
        while not entry.has_told(event):
            polls = polls + 1 if entry.has_ended or self._queue.gone(submitted) else 0
            if polls > POLLS_AFTER_ITS_END:
                return False
            time.sleep(POLL_S)
        return True

    def _in_vain(self, node: _Node, what: str) -> UsageError:
        entry, submitted = self._look(node)
        gone = self._queue.gone(submitted)
        state = f"; {gone.state}" if gone else ""
        node.look = None  # its output stays
        entry.remove()
        return UsageError(
            f"--on slurm: the look at a node, job {submitted.id}, {what}{state}; what it printed:"
            f" {submitted.output}"
        )

    def _look(self, node: _Node) -> tuple[Entry, Submitted]:
        if node.look is None:
            raise RuntimeError("no look was started")
        return node.look

    def _of(self, kind: str) -> _Node:
        return next(
            node
            for node in self._nodes
            if node.plan is not None and node.plan.environment.device_kind == kind
        )


def _import_submitit() -> None:
    """Imports it without its set-up of logging, which would close all handlers of this process."""
    name = "SUBMITIT_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = "NOCONFIG"
    try:
        import submitit  # noqa: F401 - for those who need it later
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
