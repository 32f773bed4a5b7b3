"""The run: plan × store × executor. Whoever watches it gets each thing that happens.

suite → plan → the jobs that are missing → one worker each → records → the next run goes on
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.cache import sweep_cache
from qbench.core.errors import PreflightError, UsageError
from qbench.core.files import sweep
from qbench.core.record import STATUSES
from qbench.core.store import check_writable, file_stamp, write_record
from qbench.finetune.artifact import has_artifact
from qbench.plan.missing import is_missing, jobs_to_run, made_again
from qbench.plan.plan import RETRIED
from qbench.plan.untrusted_code import code_notes
from qbench.precisions.mixed.sensitivities import has_sensitivities
from qbench.running.executors.executor import Asked, Slot
from qbench.running.executors.side_by_side import run_side_by_side
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.preflight.check import Looked, page
from qbench.running.result import RunResult, result_of
from qbench.running.supervision import LockedWatcher, run_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.plan.plan import Plan
    from qbench.plan.shards import Shard
    from qbench.plan.suite.suite import Suite
    from qbench.running.executors.executor import Column, Engine, Executor
    from qbench.running.supervision import Watcher


def run_suite(
    suite: Suite,
    results: Path,
    watcher: Watcher,
    *,
    on: Engine | None = None,
    only: Sequence[str] = (),
    shard: Shard | None = None,
    retry: frozenset[Status] = RETRIED,
    fresh: bool = False,
    yes: bool = False,
) -> RunResult:
    """Takes every measurement of the suite that is missing on disk or is to be tried again.

    `on` is where the jobs run: this machine's first GPU, else its CPU, unless it is given. `fresh`
    first deletes the records that the plan would leave. `yes` takes what stands in the way of the
    run for a note, and tries what by arithmetic does not fit a GPU. Raises `UsageError` before
    anything is measured, `PreflightError` among them, and `StoreError` when records can no longer
    be written.
    """
    with on or ThisMachine() as engine:
        if only:
            suite.select(only)  # what matches nothing is told before anybody waits for a node
        asked = Asked(suite, results, tuple(only), shard, keep_unfit=yes, note=watcher.note)
        columns = engine.columns(asked)
        check_writable(results)
        shards = (column.plan.shard for column in columns)
        for sentence in dict.fromkeys(note for part in shards if part for note in part.notes):
            watcher.note(sentence)
        looks = [_look(column, results, engine, watcher, retry, fresh=fresh) for column in columns]
        if not yes and any(look.problems for look in looks):
            raise PreflightError(page(looks))
        for problem in dict.fromkeys(one for look in looks for one in look.problems):
            watcher.note(str(problem))
        jobs = [job for look in looks for job in look.jobs]
        plans = [column.plan for column in columns]
        for plan in plans:
            if fresh:
                _delete_records(plan)
            _record_skips(plan)
        for look in looks:
            watcher.planned(look.plan, list(look.jobs))
        run = _Run(columns, jobs, retry)
        if jobs:
            run.take(jobs, engine, watcher)
        return result_of(plans, run.taken, retry)


def _look(
    column: Column,
    results: Path,
    engine: Engine,
    watcher: Watcher,
    retry: frozenset[Status],
    *,
    fresh: bool,
) -> Looked:
    """The jobs that a column lacks, and what would prevent them."""
    plan = column.plan
    _sweep(plan, results)
    if plan.device_note is not None:
        watcher.note(f"device: {plan.device_note}")
    jobs = jobs_to_run(plan, retry, fresh=fresh)
    for sentence in (*code_notes(plan), *made_again(plan, jobs, retry)):
        watcher.note(sentence)
    return Looked(plan, jobs, engine.problems(column, jobs, results))


def parse_retry(text: str) -> frozenset[Status]:
    """Statuses from `none`, `all` (but ok), or names with commas; `UsageError` otherwise."""
    if text == "none":
        return frozenset()
    if text == "all":
        return frozenset(STATUSES) - {"ok"}
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in STATUSES or name == "ok"]
    if unknown:
        known = ", ".join(status for status in STATUSES if status != "ok")
        raise UsageError(
            f"retry: found {', '.join(map(repr, unknown))}; expected none, all, or some of {known},"
            " with commas between"
        )
    return frozenset(status for status in STATUSES if status in names)


class _Run:
    """What the jobs of one run share."""

    def __init__(
        self, columns: Sequence[Column], jobs: Sequence[Job], retry: frozenset[Status]
    ) -> None:
        plans = [column.plan for column in columns]
        self._columns = columns
        self._records = {column.kind: column.plan.records for column in columns}
        self._timeout_s = plans[0].suite.timeout_s
        self._tasks = {
            task.key: task for plan in plans for cell in plan.every for task in cell.tasks
        }
        self._retry = retry
        self._planned = {task.key: file_stamp(_path(task)) for job in jobs for task in job.tasks}
        """The record files that the plan saw: another one was written by another run since."""
        self._unfetched: dict[tuple[str, str], Record] = {}
        """By the device's kind and the model's name, a record of one that could not be fetched: its
        other jobs are told so without being tried, as each try waits for the hub."""
        self.taken: set[str] = set()
        """Keys of the records that this run took."""

    def take(self, jobs: list[Job], engine: Engine, watcher: Watcher) -> None:
        """Runs the jobs: in order on a single device, else side by side, one in each slot."""
        to_come: dict[str, list[Job]] = {column.kind: [] for column in self._columns}
        for job in jobs:
            to_come[job.environment.device_kind].append(job)
        slots = [
            Slot(column.kind, name)
            for column in self._columns
            for name in column.slots[: len(to_come[column.kind])]
        ]
        with ExitStack() as stack:
            executors = {
                slot: stack.enter_context(engine.executor(slot, to_come[slot.kind]))
                for slot in slots
            }
            if len(slots) == 1:
                for job in jobs:
                    self._alone(job, slots[0].name, executors[slots[0]], watcher)
                return
            shared = LockedWatcher(watcher)

            def interrupt() -> None:
                for executor in executors.values():
                    executor.stop()

            run_side_by_side(
                jobs,
                slots,
                lambda job, slot: self._alone(job, slot.name, executors[slot], shared),
                interrupt,
            )

    def _alone(self, job: Job, slot: str, executor: Executor, watcher: Watcher) -> None:
        """Runs what of the job is still missing once the device, which the slot names, is free."""
        with executor.device_held(job, lambda: watcher.waiting(slot)):
            left = []
            records = self._records[job.environment.device_kind]
            for task in job.tasks:
                record = records.record(task)
                if (
                    record is None
                    or file_stamp(_path(task)) == self._planned[task.key]
                    or is_missing(record, self._retry)
                ):
                    left.append(task)
                else:
                    watcher.recorded(job, record)
            if not left:
                return
            rest = job.model_copy(update={"tasks": tuple(left)})
            why = self._why_in_vain(rest)
            if why is not None:
                _record_in_vain(rest, why, watcher)
                self.taken |= {task.key for task in left}
                return
            self.taken |= run_job(rest, self._timeout_s, executor, watcher, records)
            last = records.record(left[-1])
            if last is not None and (last.status, last.phase) == ("error", "fetch"):
                self._unfetched[_model_there(job)] = last

    def _why_in_vain(self, job: Job) -> tuple[str, str | None] | None:
        """The phase that the job would fail in, and the reason, where that is known; else None."""
        unfetched = self._unfetched.get(_model_there(job))
        if unfetched is not None:
            return "fetch", unfetched.reason
        needed = (
            ("its training", job.artifact_key if job.cell.deploy else None, has_artifact),
            ("what its mix is found from", job.sensitivities_key, has_sensitivities),
        )
        records = self._records[job.environment.device_kind]
        for what, key, is_there in needed:
            maker = self._tasks.get(key or "")
            record = None if maker is None or is_there(maker.key) else records.record(maker)
            if record is not None and record.status != "ok":
                return "prepare", f"{what} failed ({record.status}): {record.reason}"
        return None


def _model_there(job: Job) -> tuple[str, str]:
    return job.environment.device_kind, job.model.ref.name


def _record_in_vain(job: Job, why: tuple[str, str | None], watcher: Watcher) -> None:
    """Writes of each task what is known without trying it."""
    phase, reason = why
    for task in job.tasks:
        record = job.record(task, "error", reason=reason, phase=phase)
        write_record(_path(task), record)
        watcher.recorded(job, record)


def _sweep(plan: Plan, results: Path) -> None:
    """Removes what runs that were killed left half written."""
    sweep_cache()
    folders = {_path(task).parent for cell in plan.every for task in cell.tasks}
    for folder in (results, *folders):
        sweep(folder)


def _record_skips(plan: Plan) -> None:
    for job, reason in plan.skipped():
        for task in job.tasks:
            if plan.records.record(task) is None:
                write_record(_path(task), job.record(task, "skipped", reason=reason, phase="plan"))


def _delete_records(plan: Plan) -> None:
    for task in plan.tasks:
        _path(task).unlink(missing_ok=True)


def _path(task: Task) -> Path:
    return Path(task.path)
