"""What runs on a node of a cluster, for every engine that has one: the plan, and jobs.

A node lays the suite out itself: its device, its versions and its threads are in the keys. Its jobs
run as on any machine, in processes of their own, with their records in a folder of the node's. What
happens is told as events that hold the records themselves, so that the driver needs no disk in
common with the node:

    {"event": "record", "index": 0, "status": "ok", "text": "…"}   the whole record file
    {"event": "log", "text": "…"}                                  what the worker's log got since

`{"event": "waiting"}` while another run has the device, and else those of `qbench.running.worker`,
but for `store_error`: a node whose disk is full ends its own job.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.environment import detect_environment
from qbench.core.errors import QbenchError
from qbench.core.files import scratch_folder
from qbench.plan.records import RecordsOnDisk
from qbench.running.executors.device_locks import devices_held
from qbench.running.executors.executor import JobEnd
from qbench.running.executors.local import LocalExecutor
from qbench.running.preflight.check import problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.errors import Problem
    from qbench.core.record import Environment
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.running.executors.executor import Asked, OnEvent

_LOG = "worker.log"


def plan_on_node(asked: Asked, device: str | None, git_revision: str | None) -> Plan:
    """Lays the suite out on the node that this is called on; nothing of the results is read.

    `device` is as for `make_plan`. `git_revision` is of the folder that the run was started in,
    which need not be there. Raises `UsageError`, as `make_plan` does.
    """
    plan = asked.plan_on(device)
    environment = plan.environment.model_copy(update={"git_revision": git_revision})
    # What lies on disk is the driver's to say.
    return replace(plan, environment=environment, records=RecordsOnDisk())


def problems_on_node(plan: Plan, jobs: Sequence[Job]) -> list[Problem]:
    """What would prevent these jobs on the node that this is called on."""
    with scratch_folder("qbench-look") as folder:
        return problems(plan, jobs, folder)


def run_on_node(job: Job, timeout_s: float, on_event: OnEvent) -> JobEnd:
    """Runs a job on the node that this is called on, once the job's devices are free there."""
    differs = differences(job.environment, detect_environment(job.device))
    if differs:
        return JobEnd(
            "crash",
            f"this node is not as the run was laid out for: {differs}; install the same versions on"
            " all nodes, and leave out those that have other devices",
        )
    with scratch_folder("qbench-node") as folder:
        there = _moved(job, folder)
        follower = _Follower(there, folder / _LOG, on_event)
        with (
            devices_held(
                job.device, job.cell.model, lambda: False, lambda: on_event({"event": "waiting"})
            ),
            # Within the lock: what it imports would disturb whoever is timed on a CPU now.
            LocalExecutor(job.device, [there]) as executor,
        ):
            end = executor.run(there, folder / _LOG, timeout_s, follower)
        follower.tell_log()
    return follower.end or end


def end_of(error: Exception) -> JobEnd:
    """The end of a job whose node raised this, outside the job's own processes."""
    said = str(error) if isinstance(error, QbenchError) else f"{type(error).__name__}: {error}"
    return JobEnd("crash", f"{platform.node()}: {said}")


class _Follower:
    """Passes the events of a worker on, with what it wrote to disk."""

    def __init__(self, job: Job, log: Path, on_event: OnEvent) -> None:
        self._job = job
        self._log = log
        self._told = 0
        self._on_event = on_event
        self.end: JobEnd | None = None
        """Where it is another one than the worker's."""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "store_error":
            # Of the node's disk, not of the one that records are kept on.
            self.end = JobEnd("crash", f"{platform.node()}: {event['message']}")
            return
        if event["event"] == "record":
            self.tell_log()
            text = Path(self._job.tasks[event["index"]].path).read_text(encoding="utf-8")
            event = {**event, "text": text}
        self._on_event(event)

    def tell_log(self) -> None:
        """Tells what the log got since this was called last."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._told)
                new = file.read()
        except FileNotFoundError:  # the worker has written nothing yet
            return
        if new:
            self._told += len(new)
            self._on_event({"event": "log", "text": new.decode(errors="replace")})


def _moved(job: Job, folder: Path) -> Job:
    """The job with its records below a folder of the node's, under names of their own."""
    tasks = tuple(
        task.model_copy(update={"path": str(folder / str(at) / Path(task.path).name)})
        for at, task in enumerate(job.tasks)
    )
    return job.model_copy(update={"tasks": tasks})


def differences(planned: Environment, here: Environment) -> str:
    """In words, what of a node is not as planned and decides numbers; empty where all is."""
    then, now = (
        {
            "device": one.device_kind,
            "qbench": one.qbench,
            "python": one.python,
            **{name: version for name, version in one.versions.items() if version is not None},
        }
        for one in (planned, here)
    )
    return ", ".join(
        f"{name} {then.get(name) or 'not installed'} planned, {now.get(name) or 'none'} here"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    )
