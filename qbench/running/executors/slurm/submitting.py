"""Jobs handed to Slurm through submitit, several at once as an array; and what became of them.

For trying things out without a cluster, submitit starts each job as a process of this machine.
"""

from __future__ import annotations

import getpass
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal, NamedTuple

from qbench.core.errors import UsageError
from qbench.core.untrusted import in_one_line
from qbench.running.executors.slurm import as_processes
from qbench.running.executors.slurm.folder import Submitted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from qbench.running.executors.slurm.asking import Resources

GATHERED_S = 0.3
"""How long jobs are gathered for one array, after the last one came."""
_LONGEST_S = 3.0
_POLL_S = 5.0
"""Between two questions to Slurm about all jobs of the run."""
_UNSEEN_S = 60.0
"""How long a job may be unknown to Slurm after it was submitted, or vanished from its queue."""
_ENDS_WITHIN_S = 10.0
"""In which a job has ended that has told its end."""
_PAUSES_S = (5.0, 20.0, 60.0)
_SILENT = re.compile(r"Unable to contact|temporarily (unavailable|disabled)|Zero Bytes were")
"""Of what sbatch says when Slurm did not answer and took no job."""
_PATIENCE_S = 30.0
"""For a command of Slurm to answer."""


class Gone(NamedTuple):
    """How a job ended that did not tell its end itself."""

    how: Literal["lost", "oom", "timeout", "crash"]
    """`lost` is no fault of the job: it can be submitted again."""
    state: str
    """In words, with Slurm's own name for it."""


_ENDS: Mapping[str, Literal["lost", "oom", "timeout", "crash"]] = {
    "PREEMPTED": "lost",
    "NODE_FAIL": "lost",
    "BOOT_FAIL": "lost",
    "REVOKED": "lost",
    "LAUNCH_FAILED": "lost",
    "FAILED": "lost",
    "COMPLETED": "lost",
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "CANCELLED": "crash",
}
"""What Slurm's final states are the end of. A job that failed or completed without a word was ended
from outside: it tells its own failures."""


class _Waiting(NamedTuple):
    work: Callable[[], None]
    resources: Resources
    submitted: Future[Submitted]


class Queue:
    """Submits jobs and asks after them; used by many threads."""

    def __init__(self, folder: Path, *, local: bool) -> None:
        """`folder` is for what submitit keeps; `local`: on this machine in place of Slurm."""
        self._folder = folder
        self.local = local
        self._gathering: list[_Waiting] = []
        self._done: list[Submitted] = []
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._asked_at = 0.0
        self._seen_at: dict[str, float] = {}
        """When each job was last known to wait or run, by `time.monotonic`."""
        self._ends: dict[str, Gone] = {}
        """How jobs ended, by what Slurm's accounting says."""

    def submit(self, work: Callable[[], None], resources: Resources) -> Submitted:
        """Submits a job, in one array with those that other threads submit now for the same.

        `work` is pickled. Raises `UsageError` where Slurm refuses it.
        """
        one = _Waiting(work, resources, Future())
        with self._lock:
            self._gathering.append(one)
            first = len(self._gathering) == 1
        if first:
            self._submit_gathered()
        return one.submitted.result()

    def gone(self, one: Submitted) -> Gone | None:
        """How a job ended; None while it waits or runs, or as long as nobody can say."""
        if self.local:
            return (
                None
                if as_processes.lives(one)
                else Gone("lost", "its process was ended from outside")
            )
        with self._asking:
            self._seen_at.setdefault(one.id, time.monotonic())
            if time.monotonic() - self._asked_at >= _POLL_S:
                self._ask()
            if self._seen_at[one.id] >= self._asked_at:
                return None
            unseen_s = time.monotonic() - self._seen_at[one.id]
            said = f"job {one.id} is in Slurm's queue no more, and nothing is known of its end"
            return self._ends.get(one.id) or (Gone("lost", said) if unseen_s > _UNSEEN_S else None)

    def cancel(self, several: Iterable[Submitted]) -> None:
        """Ends jobs, waiting or running; those that have ended are left alone."""
        several = list(several)
        self._cancelled |= {one.id for one in several}
        if self.local:
            as_processes.interrupt(several)
        elif several:
            with suppress(OSError, subprocess.SubprocessError):
                _call("scancel", *(one.id for one in several))

    def forget(self, one: Submitted) -> None:
        """Removes, later, what submitit kept of a job that did what it should."""
        self._done.append(one)

    def clean(self) -> None:
        """Removes what submitit kept of the jobs that are to be forgotten, once they have ended."""
        until = time.monotonic() + _ENDS_WITHIN_S
        for one in self._done:
            result = Path(one.output.removesuffix("log.err") + "result.pkl")
            ended = one.id in self._cancelled
            while not ended and time.monotonic() < until:
                ended = result.exists() and not (self.local and as_processes.lives(one))
                time.sleep(0.1)
            for path in result.parent.glob(f"{one.id}_*"):
                path.unlink(missing_ok=True)
            if not any(result.parent.glob("*_log.*")):
                shutil.rmtree(result.parent, ignore_errors=True)

    def _submit_gathered(self) -> None:
        """Waits until no more jobs come, and submits all that have come."""
        begun, before = time.monotonic(), 0
        while True:
            if not self.local:
                time.sleep(GATHERED_S)
            with self._lock:
                count = len(self._gathering)
                if self.local or count == before or time.monotonic() - begun > _LONGEST_S:
                    gathered, self._gathering = self._gathering, []
                    break
            before = count
        arrays: dict[Hashable, list[_Waiting]] = defaultdict(list)
        for one in gathered:
            arrays[one.resources].append(one)
        for same in arrays.values():
            try:
                found = self._submit_array([one.work for one in same], same[0].resources)
            except BaseException as error:  # noqa: BLE001 - raised in the thread of each job
                for one in same:
                    one.submitted.set_exception(error)
            else:
                for one, submitted in zip(same, found, strict=True):
                    one.submitted.set_result(submitted)

    def _submit_array(
        self, works: list[Callable[[], None]], resources: Resources
    ) -> list[Submitted]:
        """Submits jobs that ask for the same; once more where Slurm does not answer."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        pauses = iter(_PAUSES_S)
        while True:
            try:
                return self._submit_once(works, resources)
            except (FailedJobError, FailedSubmissionError, OSError) as error:
                said = in_one_line(str(error)).strip() or type(error).__name__
                pause_s = next(pauses, None)
                if pause_s is None or not _SILENT.search(said):
                    raise UsageError(
                        f"--on slurm: sbatch did not take the job: {said}; change what the job asks"
                        " for under `cluster: slurm:` of the suite, or with --partition, --time and"
                        " --gpus; set its at_once where there are too many jobs"
                    ) from error
                time.sleep(pause_s)

    def _submit_once(
        self, works: list[Callable[[], None]], resources: Resources
    ) -> list[Submitted]:
        from submitit import AutoExecutor

        cluster = "local" if self.local else "slurm"
        # One for each: a process of this machine may get the id of an earlier one.
        folder = self._folder / secrets.token_hex(6)
        # A file in the folder that a run is started in cannot take a module's place.
        python = {f"{cluster}_python": f"{quote(sys.executable)} -P"}
        executor = AutoExecutor(folder, cluster=cluster, **python)
        lists = {name: [*one] if isinstance(one, tuple) else one for name, one in resources}
        executor.update_parameters(**lists)
        shield = as_processes.unheard_interrupts() if self.local else nullcontext()
        with shield, executor.batch():
            jobs = [executor.submit(work) for work in works]
        return [
            Submitted(
                job.job_id,
                as_processes.started(job.job_id) if self.local else None,
                str(folder / f"{job.job_id}_0_log.err"),
            )
            for job in jobs
        ]

    def _ask(self) -> None:
        """Asks Slurm which jobs there are, and how those ended that are there no more."""
        self._asked_at = time.monotonic()
        try:
            there = _in_queue()
        except (OSError, subprocess.SubprocessError):
            there = frozenset(self._seen_at)  # nobody can say: they may all be there
        now = time.monotonic()
        self._seen_at |= {job: now for job in self._seen_at if job in there}
        away = [job for job in self._seen_at if job not in there and job not in self._ends]
        for job, state in _states(away).items():
            base = state.split(" ")[0].rstrip("+")
            if base in _ENDS:
                self._ends[job] = Gone(_ENDS[base], f"Slurm ended job {job} ({state})")


def _in_queue() -> frozenset[str]:
    """Ids of this user's jobs that wait or run."""
    user = ("--user", getpass.getuser())
    return frozenset(_call("squeue", "--noheader", "--array", *user, "--format=%i").split())


def _states(job_ids: list[str]) -> dict[str, str]:
    """What Slurm's accounting says of jobs; nothing of those that it does not know."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    if not job_ids:
        return {}
    arrays = ",".join(dict.fromkeys(one.partition("_")[0] for one in job_ids))
    try:
        told = _call("sacct", "--parsable2", "--format=JobID,State,NodeList", "--jobs", arrays)
    except (OSError, subprocess.SubprocessError):  # a cluster without accounting
        return {}
    found = SlurmInfoWatcher().read_info(told)
    return {one: found[one]["State"] for one in job_ids if one in found}


def _call(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_PATIENCE_S
    ).stdout
