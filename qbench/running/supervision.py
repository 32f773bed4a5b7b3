"""Runs one job to its end: a new worker for the rest when one ends before its time.

Whatever a worker's end is the end of becomes records with its reason and the tail of its log.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.errors import StoreError
from qbench.core.process_ends import tail_of_log
from qbench.core.store import append_to_log, file_stamp, write_record
from qbench.plan.job import now

if TYPE_CHECKING:
    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.plan.plan import Plan
    from qbench.plan.records import RecordsOnDisk
    from qbench.running.executors.executor import Executor, JobEnd


class Watcher(Protocol):
    """Gets what happens in a run, as it happens."""

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        """The plan for one kind of device stands; these jobs are missing."""

    def waiting(self, device: str) -> None:
        """Another run holds the device; this one waits."""

    def started(self, job: Job) -> None:
        """A worker for this job is asked for."""

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        """An event of the worker; see `qbench.running.worker`."""

    def recorded(self, job: Job, record: Record) -> None:
        """A record is on disk."""

    def ended(self, job: Job, end: JobEnd) -> None:
        """The job's worker has ended."""

    def note(self, message: str) -> None:
        """Something the user should know."""


class LockedWatcher:
    """A watcher for several jobs at once: it tells another one thing after the other."""

    def __init__(self, watcher: Watcher) -> None:
        """`watcher` gets what happens in any thread, never two things at a time."""
        self._watcher = watcher
        self._lock = threading.Lock()

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        """The plan for one kind of device stands; these jobs are missing."""
        with self._lock:
            self._watcher.planned(plan, jobs)

    def waiting(self, device: str) -> None:
        """Another run holds the device; this one waits."""
        with self._lock:
            self._watcher.waiting(device)

    def started(self, job: Job) -> None:
        """A worker for this job is asked for."""
        with self._lock:
            self._watcher.started(job)

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        """An event of the worker."""
        with self._lock:
            self._watcher.happened(job, event)

    def recorded(self, job: Job, record: Record) -> None:
        """A record is on disk."""
        with self._lock:
            self._watcher.recorded(job, record)

    def ended(self, job: Job, end: JobEnd) -> None:
        """The job's worker has ended."""
        with self._lock:
            self._watcher.ended(job, end)

    def note(self, message: str) -> None:
        """Something the user should know."""
        with self._lock:
            self._watcher.note(message)


def run_job(
    job: Job, timeout_s: float, executor: Executor, watcher: Watcher, records: RecordsOnDisk
) -> set[str]:
    """Runs a job's tasks, with a new worker for the rest when one ends before its time.

    Each worker leaves at least one record, so that there is an end to it. Returns the keys of the
    records taken. Raises `StoreError` when records can no longer be written.
    """
    taken: set[str] = set()
    left = job.tasks
    while left:
        part = job.model_copy(update={"tasks": left})
        log = log_path(part)
        _begin_in_log(log, part)
        progress = _Progress(part, watcher, records)
        watcher.started(part)
        end = progress.judged(executor.run(part, log, timeout_s, progress))
        watcher.ended(part, end)
        if progress.store_error is not None:
            raise StoreError(progress.store_error)
        done = progress.recorded
        if end.how != "finished":
            done += _record_end(end.how, end.reason, progress, log, watcher)
        taken |= {task.key for task in left[:done]}
        left = left[done:]
    return taken


def _record_end(
    status: Status, reason: str | None, progress: _Progress, log: Path, watcher: Watcher
) -> int:
    """Gives the tasks that a worker's end is the end of their records; returns how many."""
    job, failed = progress.job, progress.failed(status)
    if failed and progress.was_written(failed[0]):
        return 1  # the worker ended between writing this record and telling of it
    for task in failed:
        record = job.record(
            task,
            status,
            reason=reason,
            phase=progress.phase,
            log_tail=tail_of_log(log),
            started_at=progress.started_at,
        )
        write_record(Path(task.path), record)
        watcher.recorded(job, record)
    return len(failed)


class _Progress:
    """Follows one worker's events, so that its end can be told to the task that caused it."""

    def __init__(self, job: Job, watcher: Watcher, records: RecordsOnDisk) -> None:
        self.job = job
        self._watcher = watcher
        self._records = records
        self._begun = False
        self._before = {task.key: file_stamp(Path(task.path)) for task in job.tasks}
        self.phase = "start"
        self.recorded = 0
        self._device_lost = False
        self.store_error: str | None = None
        self.started_at = now()

    def __call__(self, event: dict[str, Any]) -> None:
        self._watcher.happened(self.job, event)
        if event["event"] == "phase":
            self.phase = event["phase"]
        elif event["event"] == "task":
            self._begun = True
        elif event["event"] == "record":
            self.recorded += 1
            record = self._records.record(self.job.tasks[event["index"]])
            if record is not None:
                self._watcher.recorded(self.job, record)
        elif event["event"] == "device_lost":
            self._device_lost = True
        elif event["event"] == "store_error":
            self.store_error = event["message"]

    def judged(self, end: JobEnd) -> JobEnd:
        """The worker's end; one that calls itself finished before it was has crashed.

        But for one that lost its GPU with the last record that it wrote.
        """
        done = self._device_lost and self.recorded > 0
        if end.how != "finished" or done or self.recorded == len(self.job.tasks):
            return end
        return replace(
            end,
            how="crash",
            reason="the worker ended with exit code 0 before it was done: something that it called"
            " ended the process; its log may say what",
        )

    def failed(self, status: Status) -> tuple[Task, ...]:
        """The tasks that the worker's end is the end of.

        The running one; but all that are left when the model was not yet loaded, which would
        fail again, or when the cell's time is used up.
        """
        left = self.job.tasks[self.recorded :]
        return left[:1] if self._begun and status != "timeout" else left

    def was_written(self, task: Task) -> bool:
        """Whether the task's record file is of this worker."""
        path = Path(task.path)
        return self._records.record(task) is not None and file_stamp(path) != self._before[task.key]


def log_path(job: Job) -> Path:
    """The log of a job's cell: what its workers, and the libraries in them, printed."""
    return Path(job.tasks[0].path).parent / "worker.log"


def _begin_in_log(path: Path, job: Job) -> None:
    names = ", ".join(f"{task.item.measurement} {task.item.slug}" for task in job.tasks)
    append_to_log(path, f"--- {now()} {job.cell.slug}: {names}\n")
