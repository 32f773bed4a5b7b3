"""Runs whose jobs are done in the test's own process: by a worker's true code, or as told."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from qbench.cli.display import RunDisplay
from qbench.core.store import write_record
from qbench.finetune.artifact import artifact_folder
from qbench.measures import measures
from qbench.measures.loaded import make_metric
from qbench.measures.quality.reference_states import states_path
from qbench.plan.plan import check_suite
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.written import read_file
from qbench.running.executors.executor import JobEnd
from qbench.running.executors.inline import InlineExecutor
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.runner import parse_retry, run_suite
from qbench.sources.sealed import seal
from tests.workplace import taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.plan.plan import Plan
    from qbench.running.executors.executor import OnEvent
    from qbench.running.executors.inline import Work
    from qbench.running.result import RunResult
    from tests.workplace import Workplace


@dataclass(frozen=True)
class Ran:
    """What a run left, and what it said to somebody who is not at a terminal."""

    result: RunResult
    output: str
    before: dict[str, Record]
    after: dict[str, Record]
    jobs: tuple[Job, ...]
    """Those that a worker was asked for, in order."""

    @property
    def taken(self) -> set[str]:
        """Names of the records that this run took."""
        return taken(self.before, self.after)

    @property
    def taken_items(self) -> list[str]:
        """What it took, as `<label> <measurement>`."""
        found = [self.after[name] for name in self.taken]
        return sorted(f"{one.cell.label} {one.item.measurement}" for one in found)


def run_inline(
    place: Workplace,
    suite: str = "suite.yaml",
    *,
    work: Work | None = None,
    retry: str = "crash,timeout,error",
    quiet: bool = False,
    rehearsed: bool = False,
    before: dict[str, Record] | None = None,
    **options: Any,
) -> Ran:
    """`qbench run` on the CPU, in this process; `before` where not all records can be read.

    `work` is that of a worker, or pretended; `options` are those of `run_suite`.
    """
    before = place.records() if before is None else before
    output = io.StringIO()
    console = Console(file=output, width=200)
    with place.entered(), _Noted(console, quiet=quiet) as display:
        chosen = check_suite(read_file(place.folder / suite))
        result = run_suite(
            rehearse(chosen) if rehearsed else chosen,
            place.folder / "results",
            display,
            retry=parse_retry(retry),
            on=ThisMachine("cpu", make_executor=partial(InlineExecutor, work=work)),
            **options,
        )
    return Ran(result, output.getvalue(), before, place.records(), tuple(display.jobs))


class _Noted(RunDisplay):
    """Notes the jobs that are started, beside showing them."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        super().__init__(console, quiet=quiet)
        self.jobs: list[Job] = []

    def started(self, job: Job) -> None:
        self.jobs.append(job)
        super().started(job)


class Listener:
    """Remembers what a run tells; satisfies `qbench.running.supervision.Watcher`."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        self.heard.append(f"planned {len(jobs)}")

    def waiting(self, device: str) -> None:
        self.heard.append("waiting")

    def started(self, job: Job) -> None:
        self.heard.append("started")

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        self.heard.append(f"happened {event.get('phase') or event['event']}")

    def recorded(self, job: Job, record: Record) -> None:
        self.heard.append("recorded")

    def ended(self, job: Job, end: JobEnd) -> None:
        self.heard.append("ended")

    def note(self, message: str) -> None:
        self.heard.append(message)


def good(job: Job, task: Task) -> Record:
    """A record with every metric of its measurement."""
    definitions = measures()[task.item.measurement].metrics
    metrics = tuple(make_metric(definitions, one.name, 0.5) for one in definitions)
    return job.record(task, "ok", metrics=metrics, duration_s=0.5)


def failing(status: Status, reason: str = "as told", **fields: Any) -> Callable[..., Record]:
    """An answer that is a failure, whatever is asked for."""
    return lambda job, task: job.record(task, status, reason=reason, **fields)


def pretended(answer: Callable[[Job, Task], Record | JobEnd] = good) -> Work:
    """Work without a model: each item gets the record, or the worker the end, that is answered."""

    def work(job: Job, on_event: OnEvent) -> JobEnd | None:
        for phase in ("fetch", "load", "verify"):
            on_event({"event": "phase", "phase": phase})
        for index, task in enumerate(job.tasks):
            on_event({"event": "task", "index": index})
            on_event({"event": "phase", "phase": "measure"})
            answered = answer(job, task)
            if isinstance(answered, JobEnd):
                return answered
            if answered.status == "ok":
                _leave_in_cache(job, task)
            write_record(Path(task.path), answered)
            on_event({"event": "record", "index": index, "status": answered.status})
        return None

    return work


def _leave_in_cache(job: Job, task: Task) -> None:
    """What others need of this item: states, or a tuned model; of no use but to be there."""
    made = [states_path(task.key).parent] if task.item.makes_states else []
    made += [artifact_folder(task.key)] if task.key == job.artifact_key else []
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pretended").touch()
        seal(folder, task.key)
