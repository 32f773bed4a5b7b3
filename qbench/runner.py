"""The run: plan × store × executor. Whoever watches it gets each thing that happens.

suite → plan → the jobs that are missing → one worker each → records → the next run goes on
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from qbench.environment import visible_gpus
from qbench.errors import StoreError, UsageError
from qbench.executors.gpus import choose_gpus
from qbench.executors.local import LocalExecutor, RunStoppedError
from qbench.executors.side_by_side import run_side_by_side
from qbench.job import now
from qbench.missing import is_missing, jobs_to_run
from qbench.plan import RETRIED, damaged_records, make_plan, record_on_disk
from qbench.preflight import check, obstacles
from qbench.preflight_room import device_obstacles
from qbench.record import STATUSES
from qbench.sources.cache import cache_folder
from qbench.store import check_writable, write_record
from qbench.supervision import OneAtATime, run_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.job import Job, Task
    from qbench.plan import Plan
    from qbench.record import Record, Status
    from qbench.suite import Suite
    from qbench.supervision import Watcher

_LOCK_POLL_S = 1.0


@dataclass(frozen=True)
class RunResult:
    """What a run left: the plan and the records of all its tasks."""

    plan: Plan
    records: tuple[Record, ...]
    """Of the selected cells, in the plan's order; tasks that were never reached have none."""
    others: tuple[Record, ...]
    """Of the suite's cells that were not selected, as far as they are on disk."""
    taken: int
    """Records taken by this run; the others were on disk."""

    @property
    def counts(self) -> Counter[str]:
        """Records by status."""
        return Counter(record.status for record in self.records)

    @property
    def failed(self) -> bool:
        """Whether a record has a status other than `ok` and `skipped`."""
        return any(record.status not in {"ok", "skipped"} for record in self.records)


def run_suite(
    suite: Suite,
    results: Path,
    watcher: Watcher,
    *,
    device: str | None = None,
    only: Sequence[str] = (),
    retry: frozenset[Status] = RETRIED,
    fresh: bool = False,
    go_on: bool = False,
    gpus: str | None = None,
) -> RunResult:
    """Takes every measurement of the suite that is missing on disk or is to be tried again.

    `fresh` first deletes the records that the plan would leave. `go_on` takes what stands in the
    way of the run for a note, and tries what by arithmetic does not fit a GPU. Raises `UsageError`
    before anything is measured, `PreflightError` among them, and `StoreError` when records can no
    longer be written. `gpus`, instead of `device`, are those that independent cells run on side by
    side: see `choose_gpus`.
    """
    planned_at = now()
    devices = _side_by_side(suite, gpus, device) if gpus is not None else ()
    first = devices[0] if devices else device
    plan = make_plan(suite, results, device=first, only=only, unfit_too=go_on)
    check_writable(results)
    for damage in damaged_records(plan):
        watcher.note(f"{damage}; it is measured again now")
    jobs = jobs_to_run(plan, retry, fresh=fresh)
    if go_on:
        for obstacle in obstacles(plan, jobs, results):
            watcher.note(str(obstacle))
    else:
        check(plan, jobs, results)
    for other in devices[1:]:  # what the look at the machine does not see; records warn of it too
        for obstacle in device_obstacles(replace(plan, device=other), jobs):
            watcher.note(str(obstacle))
    if fresh:
        _delete_records(plan)
    _record_skips(plan)
    watcher.planned(plan, jobs)
    taken = 0
    if jobs and len(devices) > 1:
        taken = _run_on_all(jobs, devices, suite.timeout_s, watcher, retry, planned_at)
    elif jobs:
        unfetched: dict[str, Record] = {}
        with LocalExecutor(plan.device, jobs) as executor:
            for job in jobs:
                taken += _run_alone(
                    job, suite.timeout_s, executor, watcher, retry, planned_at, unfetched
                )
    others = [task for cell in plan.unselected for task in cell.tasks]
    return RunResult(plan, _on_disk(plan.tasks), _on_disk(others), taken)


def _on_disk(tasks: Sequence[Task]) -> tuple[Record, ...]:
    found = map(record_on_disk, tasks)
    return tuple(record for record in found if record is not None)


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


def _run_on_all(
    jobs: list[Job],
    devices: tuple[str, ...],
    timeout_s: float,
    watcher: Watcher,
    retry: frozenset[Status],
    planned_at: str,
) -> int:
    """Runs jobs side by side, one a device; returns records taken."""
    shared = OneAtATime(watcher)
    unfetched: dict[str, Record] = {}
    with ExitStack() as stack:
        executors = {name: stack.enter_context(LocalExecutor(name, jobs)) for name in devices}

        def run_one(job: Job, name: str) -> int:
            there = job.model_copy(update={"device": name})
            return _run_alone(
                there, timeout_s, executors[name], shared, retry, planned_at, unfetched
            )

        def interrupt() -> None:
            for executor in executors.values():
                executor.stop()

        return run_side_by_side(jobs, devices, run_one, interrupt)


def _run_alone(
    job: Job,
    timeout_s: float,
    executor: LocalExecutor,
    watcher: Watcher,
    retry: frozenset[Status],
    planned_at: str,
    unfetched: dict[str, Record],
) -> int:
    """Runs what of the job is still missing once the device is free; returns records taken.

    `unfetched` gets, by the model's name, the record of a model that could not be fetched: its
    other jobs in this run are told so without being tried, as each try waits for the hub.
    """
    lock = FileLock(device_lock(job.device))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        watcher.waiting(job.device)
        while not lock.is_locked:
            if executor.stopped:
                raise RunStoppedError from None
            with suppress(Timeout):
                lock.acquire(timeout=_LOCK_POLL_S)
    except OSError as error:
        raise _cache_error(Path(lock.lock_file), error) from error
    try:
        # Another run may have taken some of this job since the plan was made.
        left = []
        for task in job.tasks:
            record = record_on_disk(task)
            if record is None or record.started_at < planned_at or is_missing(record, retry):
                left.append(task)
            else:
                watcher.recorded(job, record)
        rest = job.model_copy(update={"tasks": tuple(left)})
        name = job.model.ref.name
        if name in unfetched:
            return _record_unfetched(rest, unfetched[name], watcher)
        taken = run_job(rest, timeout_s, executor, watcher)
        last = record_on_disk(left[-1]) if left else None
        if last is not None and (last.status, last.phase) == ("error", "fetch"):
            unfetched[name] = last
        return taken
    finally:
        lock.release()


def _record_unfetched(job: Job, known: Record, watcher: Watcher) -> int:
    """Writes of each task what is known of the model; returns the records."""
    for task in job.tasks:
        record = job.record(task, known.status, reason=known.reason, phase=known.phase)
        write_record(_path(task), record)
        watcher.recorded(job, record)
    return len(job.tasks)


def device_lock(device: str) -> Path:
    """The file that is locked while a job uses the device: two timed cells never share one."""
    folder = cache_folder() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cache_error(folder, error) from error
    return folder / f"{device.replace(':', '-')}.lock"


def _cache_error(place: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{place}: the cache folder cannot be written ({error.strerror}); mend it, or name another"
        " with the environment variable QBENCH_CACHE"
    )


def _record_skips(plan: Plan) -> None:
    for job, reason in plan.skipped():
        for task in job.tasks:
            if record_on_disk(task) is None:
                write_record(_path(task), job.record(task, "skipped", reason=reason, phase="plan"))


def _delete_records(plan: Plan) -> None:
    for task in plan.tasks:
        _path(task).unlink(missing_ok=True)


def _path(task: Task) -> Path:
    return Path(task.path)
