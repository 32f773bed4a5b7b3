"""What a Slurm job does: looks at its node for the driver, or runs one job of the run there.

submitit calls these on a node. Each tells what it does in its entry of the shared folder (see
`folder`); the events are those of `qbench.running.executors.node`, and

    {"event": "begun", "host": "…"}                        again when Slurm starts a job once more
    {"event": "ended", "how": "finished", "reason": null}
    {"event": "planned"}, {"event": "looked"}              plan.pkl, problems.pkl are there
"""

from __future__ import annotations

import os
import pickle
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from qbench.core.cpu import compute_threads
from qbench.core.errors import QbenchError
from qbench.core.files import write_atomically
from qbench.running.executors.executor import JobEnd
from qbench.running.executors.node import end_of, plan_on_node, problems_on_node, run_on_node
from qbench.running.executors.slurm import as_processes
from qbench.running.executors.slurm.folder import Entry, Submitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.running.executors.executor import Asked

WAITS_S = 300.0
"""How long a look waits for the driver to say which jobs are missing."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Seen:
    """What a look found."""

    plan: Plan | None = None
    threads: int = 0
    """Threads that torch computes with in a job there."""
    error: str | None = None
    """Why the suite cannot be laid out there."""


@dataclass(frozen=True)
class Look:
    """A look at a node: the plan there, and then what would prevent the jobs that it lacks."""

    folder: str
    """Of its entry."""
    cache: str
    """The driver's cache folder."""
    asked: Asked
    device: str
    git_revision: str | None

    def __call__(self) -> None:
        """Looks; the driver then asks which jobs are missing: None where there are none."""
        entry = _entered(self.folder, self.cache)
        if entry is None:
            return
        seen = self._seen()
        keep(entry, "plan.pkl", seen)
        entry.tell({"event": "planned"})
        jobs = self._missing(entry)
        if seen.plan is not None and jobs is not None:
            keep(entry, "problems.pkl", problems_on_node(seen.plan, jobs))
            entry.tell({"event": "looked"})
        _end(entry, JobEnd("finished"))

    def _seen(self) -> Seen:
        try:
            found = plan_on_node(self.asked, self.device, self.git_revision)
        except QbenchError as error:
            return Seen(error=str(error))
        return Seen(found, compute_threads())

    def _missing(self, entry: Entry) -> Sequence[Job] | None:
        until = time.monotonic() + WAITS_S
        while time.monotonic() < until:
            asked = entry.asked()
            if asked is not None:
                jobs: Sequence[Job] | None = asked[0]
                return jobs
            time.sleep(_POLL_S)
        return None


@dataclass(frozen=True)
class Work:
    """One job of a run, as the entry tells it."""

    folder: str
    cache: str

    def __call__(self) -> None:
        """Runs what of the job is not recorded: all of it, unless Slurm has started it again."""
        entry = _entered(self.folder, self.cache)
        if entry is None:
            return
        told, job, done = entry.told(), entry.job, entry.recorded()
        left = [index for index in range(len(job.tasks)) if index not in done]
        if not left:
            _end(entry, JobEnd("finished"))
            return
        rest = job.model_copy(update={"tasks": tuple(job.tasks[index] for index in left)})

        def tell(event: dict[str, Any]) -> None:
            entry.tell({**event, "index": left[event["index"]]} if "index" in event else event)

        _end(entry, _run(rest, told["timeout_s"], told["threads"], tell))


def _run(job: Job, timeout_s: float, threads: int, tell: Any) -> JobEnd:
    here = compute_threads()
    if job.device == "cpu" and here != threads:
        return JobEnd(
            "crash",
            f"{platform.node()} computes with {here} threads, the run was laid out for {threads}:"
            " ask for nodes of one kind with cluster.slurm.constraint, or for so many cores with"
            " cluster.slurm.cpus",
        )
    from submitit.core.utils import UncompletedJobError

    try:
        return run_on_node(job, timeout_s, tell)
    except UncompletedJobError as error:  # raised when Slurm's signal comes
        return JobEnd(
            "timeout", f"the time limit of the job, cluster.slurm.time, was near: {error}"
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the job's end
        return end_of(error)


def _entered(folder: str, cache: str) -> Entry | None:
    """The entry, unless the driver has taken it back; the cache is the driver's from then on."""
    as_processes.hear_interrupts()  # not heard before where submitit started it on this machine
    os.environ["QBENCH_CACHE"] = cache
    entry = Entry(Path(folder))
    if not entry.take_up():
        return None
    entry.keep_submitted(_submitted())
    entry.end_torn_line()
    entry.tell({"event": "begun", "host": platform.node()})
    return entry


def _submitted() -> Submitted:
    """How this job is found, also where the driver was killed before it knew."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    started = psutil.Process(int(job.job_id)).create_time() if job.name() == "local" else None
    return Submitted(job.job_id, started, str(job.paths.stderr))


def _end(entry: Entry, end: JobEnd) -> None:
    entry.tell({"event": "ended", **asdict(end)})


def keep(entry: Entry, name: str, value: object) -> None:
    """Leaves a value in an entry for the driver, before an event tells of it."""
    write_atomically(entry.folder / name, pickle.dumps(value))


def kept(entry: Entry, name: str) -> Any:
    """The value that a job has left."""
    return pickle.loads((entry.folder / name).read_bytes())  # noqa: S301 - qbench's own cache
