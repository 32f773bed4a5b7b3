"""The run: plan × store × executor. Whoever watches it gets each thing that happens.

suite → plan → the jobs that are missing → one worker each → records → the next run goes on
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.cache import sweep_cache
from qbench.core.errors import UsageError
from qbench.core.files import sweep
from qbench.core.nvml import visible_gpus
from qbench.core.record import STATUSES
from qbench.core.store import check_writable, file_stamp, write_record
from qbench.finetune.artifact import has_artifact
from qbench.plan.missing import is_missing, jobs_to_run, made_again
from qbench.plan.plan import RETRIED, make_plan
from qbench.precisions.mixed.sensitivities import has_sensitivities
from qbench.running.executors.device_locks import DeviceLocks, lock_names
from qbench.running.executors.executor import RunStoppedError
from qbench.running.executors.gpus import choose_gpus
from qbench.running.executors.local import LocalExecutor
from qbench.running.executors.side_by_side import run_side_by_side
from qbench.running.preflight.check import check, problems
from qbench.running.result import RunResult, result_of
from qbench.running.supervision import LockedWatcher, run_job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.plan.plan import Plan
    from qbench.plan.suite.suite import Suite
    from qbench.running.executors.executor import Executor, MakeExecutor
    from qbench.running.supervision import Watcher

_LOCK_POLL_S = 1.0


def run_suite(
    suite: Suite,
    results: Path,
    watcher: Watcher,
    *,
    device: str | None = None,
    only: Sequence[str] = (),
    retry: frozenset[Status] = RETRIED,
    fresh: bool = False,
    yes: bool = False,
    gpus: str | None = None,
    make_executor: MakeExecutor = LocalExecutor,
) -> RunResult:
    """Takes every measurement of the suite that is missing on disk or is to be tried again.

    `fresh` first deletes the records that the plan would leave. `yes` takes what stands in the
    way of the run for a note, and tries what by arithmetic does not fit a GPU. Raises `UsageError`
    before anything is measured, `PreflightError` among them, and `StoreError` when records can no
    longer be written. `gpus`, instead of `device`, are those that independent cells run on side by
    side: see `choose_gpus`. `make_executor` makes who runs the jobs of a device.
    """
    devices = _side_by_side(suite, gpus, device) if gpus is not None else ()
    first = devices[0] if devices else device
    plan = make_plan(suite, results, device=first, only=only, keep_unfit=yes)
    check_writable(results)
    _sweep(plan, results)
    if plan.device_note is not None:
        watcher.note(f"device: {plan.device_note}")
    jobs = jobs_to_run(plan, retry, fresh=fresh)
    for sentence in made_again(plan, jobs, retry):
        watcher.note(sentence)
    if yes:
        for problem in problems(plan, jobs, results, more_devices=devices[1:]):
            watcher.note(str(problem))
    else:
        check(plan, jobs, results, more_devices=devices[1:])
    if fresh:
        _delete_records(plan)
    _record_skips(plan)
    watcher.planned(plan, jobs)
    run = _Run(plan, jobs, retry, make_executor)
    if jobs and len(devices) > 1:
        run.side_by_side(jobs, devices, watcher)
    elif jobs:
        run.one_by_one(jobs, plan.device, watcher)
    return result_of(plan, run.taken, retry)


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


def _side_by_side(suite: Suite, gpus: str, device: str | None) -> tuple[str, ...]:
    """The devices that `--gpus` names; `UsageError` for a run that cannot be spread over them."""
    if device is not None:
        raise UsageError(
            f"found --device {device} and --gpus {gpus}; expected one of them: --gpus for cells"
            " side by side, --device for one after the other"
        )
    chosen = choose_gpus(gpus, visible_gpus())
    spread = [model.name for model in suite.models if model.device_map is not None]
    if spread and len(chosen) > 1:
        raise UsageError(
            f"--gpus {gpus}: {', '.join(spread)} is laid over all GPUs (device_map), so that no"
            " other cell can run beside it; leave --gpus out"
        )
    return chosen


class _Run:
    """What the jobs of one run share."""

    def __init__(
        self,
        plan: Plan,
        jobs: list[Job],
        retry: frozenset[Status],
        make_executor: MakeExecutor,
    ) -> None:
        self._make_executor = make_executor
        self._records = plan.records
        self._timeout_s = plan.suite.timeout_s
        self._tasks = {task.key: task for cell in plan.every for task in cell.tasks}
        self._retry = retry
        self._planned = {task.key: file_stamp(_path(task)) for job in jobs for task in job.tasks}
        """The record files that the plan saw: another one was written by another run since."""
        self._unfetched: dict[str, Record] = {}
        """By the model's name, a record of one that could not be fetched: its other jobs are told
        so without being tried, as each try waits for the hub."""
        self.taken: set[str] = set()
        """Keys of the records that this run took."""

    def one_by_one(self, jobs: list[Job], device: str, watcher: Watcher) -> None:
        """Runs the jobs in order."""
        with self._make_executor(device, jobs) as executor:
            for job in jobs:
                self._alone(job, executor, watcher)

    def side_by_side(self, jobs: list[Job], devices: tuple[str, ...], watcher: Watcher) -> None:
        """Runs jobs side by side, one a device."""
        shared = LockedWatcher(watcher)
        with ExitStack() as stack:
            executors = {
                name: stack.enter_context(self._make_executor(name, jobs)) for name in devices
            }

            def run_one(job: Job, name: str) -> None:
                self._alone(job.model_copy(update={"device": name}), executors[name], shared)

            def interrupt() -> None:
                for executor in executors.values():
                    executor.stop()

            run_side_by_side(jobs, devices, run_one, interrupt)

    def _alone(self, job: Job, executor: Executor, watcher: Watcher) -> None:
        """Runs what of the job is still missing once the device is free."""
        with _device_held(job, executor, watcher):
            left = []
            for task in job.tasks:
                record = self._records.record(task)
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
            self.taken |= run_job(rest, self._timeout_s, executor, watcher, self._records)
            last = self._records.record(left[-1])
            if last is not None and (last.status, last.phase) == ("error", "fetch"):
                self._unfetched[job.model.ref.name] = last

    def _why_in_vain(self, job: Job) -> tuple[str, str | None] | None:
        """The phase that the job would fail in, and the reason, where that is known; else None."""
        unfetched = self._unfetched.get(job.model.ref.name)
        if unfetched is not None:
            return "fetch", unfetched.reason
        needed = (
            ("its training", job.artifact_key if job.cell.deploy else None, has_artifact),
            ("what its mix is found from", job.sensitivities_key, has_sensitivities),
        )
        for what, key, is_there in needed:
            maker = self._tasks.get(key or "")
            record = None if maker is None or is_there(maker.key) else self._records.record(maker)
            if record is not None and record.status != "ok":
                return "prepare", f"{what} failed ({record.status}): {record.reason}"
        return None


@contextmanager
def _device_held(job: Job, executor: Executor, watcher: Watcher) -> Iterator[None]:
    """Waits until no other run uses the job's devices, and keeps them for the block."""
    with DeviceLocks(
        lock_names(job.device, every_gpu=job.cell.model.device_map is not None)
    ) as locks:
        if not locks.acquired():
            watcher.waiting(job.device)
            while not locks.acquired():
                if executor.stopped:
                    raise RunStoppedError
                time.sleep(_LOCK_POLL_S)
        yield


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
