"""What of a plan a run must take: what has no record, what is tried again, and what those need."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.errors import StoreError
from qbench.core.record import identity_changes
from qbench.core.store import read_record
from qbench.finetune.artifact import damage_of_artifact, has_artifact
from qbench.measures.quality.reference_states import has_states
from qbench.plan.plan import damaged_records
from qbench.precisions.mixed.sensitivities import has_sensitivities

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.plan.plan import Plan

_DIVERGENCE = {
    "quality": "kl.mean",
    "decoded": "decoded.kl.mean",
    "sensitivity": "sensitivity.kl.mean",
    "chat": "chat.kl.mean",
}
"""By measurement, the metric that a record lacks which was compared with nothing."""
_IDS = "ids_sha256"
"""In the details of a record: hash of the token ids that were scored."""


def jobs_to_run(plan: Plan, retry: frozenset[Status], *, fresh: bool) -> list[Job]:
    """What is missing, or is to be taken again, and what that needs; `fresh` for everything."""
    missing = {
        task.key
        for task in plan.open_tasks
        if fresh or is_missing(plan.records.record(task), retry)
    }
    missing |= {record.key for record in lacking(plan, retry)}
    states = {task.item.states_key for task in plan.tasks if task.key in missing}
    missing |= _to_make(plan, states, has_states, retry)
    tables = {
        cell.sensitivities_key
        for cell in plan.every
        if any(task.key in missing for task in cell.tasks)
    }
    missing |= _to_make(plan, tables, has_sensitivities, retry)
    tuned = {
        cell.artifact_key for cell in plan.every if any(task.key in missing for task in cell.tasks)
    }
    missing |= _to_make(plan, tuned, has_artifact, retry)
    return plan.jobs(lambda task: task.key in missing)


def is_missing(record: Record | None, retry: frozenset[Status]) -> bool:
    """Whether a task of a cell that can run must be taken.

    It has no record, one whose status is tried again, or one from when the cell could not run.
    """
    return record is None or record.status in retry or record.status == "skipped"


def lacking(plan: Plan, retry: frozenset[Status]) -> list[Record]:
    """Records of the selected cells that are not compared with the reference, but can be.

    Its states were gone or could not be kept, or its own measurement failed in a way that is tried
    again: what passes. Where the reference cannot be measured, or was measured on other token ids,
    what is missing stays missing.
    """
    makers = {
        task.key: task
        for cell in plan.every
        if cell.skip is None
        for task in cell.tasks
        if task.item.makes_states and task.skip is None
    }
    return [
        record
        for task in plan.open_tasks
        # What the task alone tells comes first: most records need not be read for this.
        if task.item.params.get("divergence", False)
        and task.item.states_key in makers
        and (record := plan.records.record(task)) is not None
        and _lacks_divergence(record)
        and _can_be_held_against(record, plan, makers[task.item.states_key], retry)
    ]


def why_lacking(record: Record) -> str:
    """What a record lacks, and why, in words."""
    metric = record.metric(_DIVERGENCE[record.item.measurement])
    reason = "it has no such figure" if metric is None else metric.reason
    return f"not compared with {record.item.held_against or 'the reference'}: {reason}"


def made_again(plan: Plan, jobs: list[Job], retry: frozenset[Status]) -> list[str]:
    """A sentence each of what seemed to be there and is made again."""
    return [
        *(f"{damage}; it is measured again now" for damage in damaged_records(plan)),
        *(
            f"{record.cell.slug} {record.item.measurement} {record.item.slug}:"
            f" {why_lacking(record)}; it is measured again now"
            for record in lacking(plan, retry)
        ),
        *(
            f"the tuned model of {job.cell.slug} in the cache is not what its training left:"
            f" {damage}; it is trained again now"
            for job in jobs
            if job.cell.is_training and job.artifact_key is not None
            if (damage := damage_of_artifact(job.artifact_key)) is not None
        ),
    ]


def why_absent(task: Task) -> str | None:
    """Of a task without a record, what sets those that its cell has of the item apart, in words.

    None where there are none, or the task has its record.
    """
    path = Path(task.path)
    if path.exists():
        return None
    others = [
        record
        for other in sorted(path.parent.glob(f"{glob.escape(path.stem[: -len(task.key)])}*.json"))
        if (record := _readable(other)) is not None
        and (record.item.measurement, record.item.slug) == (task.item.measurement, task.item.slug)
    ]
    if not others:
        return None
    changes = [identity_changes(task.identity, record.identity) for record in others]
    nearest = min(changes, key=len)
    if set(nearest) != {"threads"}:
        parts = (f"{name} {then!s:.40}, now {now!s:.40}" for name, (now, then) in nearest.items())
        return f"there is one of {', '.join(parts)}; run the suite again"
    now, then = nearest["threads"]
    return (
        f"there is one that was taken with {then} threads, and this call asks for one with {now},"
        f" which it would take now: set OMP_NUM_THREADS={then}, or run the suite with {now}"
    )


def _readable(path: Path) -> Record | None:
    try:
        return read_record(path)
    except StoreError:
        return None


def _lacks_divergence(record: Record) -> bool:
    return record.status == "ok" and record.value(_DIVERGENCE[record.item.measurement]) is None


def _can_be_held_against(record: Record, plan: Plan, maker: Task, retry: frozenset[Status]) -> bool:
    """Whether the reference's states, made by `maker`, are there or can be, and are of its ids."""
    of_reference = plan.records.record(maker)
    if of_reference is None or is_missing(of_reference, retry):
        return True
    if of_reference.status != "ok":
        return has_states(maker.key)
    # A record of chat has no ids where what the reference wrote was gone.
    own = record.details.get(_IDS)
    return own is None or bool(of_reference.details.get(_IDS) == own)


def _to_make(
    plan: Plan,
    needed: set[str | None],
    is_there: Callable[[str], bool],
    retry: frozenset[Status],
) -> set[str]:
    """Keys of the tasks to take again, since others need what those made and it is gone.

    One whose own record is a failure that stands is left alone.
    """
    gone = {key for key in needed if key is not None and not is_there(key)}
    return {
        task.key
        for cell in plan.every
        for task in cell.tasks
        if task.key in gone
        and ((record := plan.records.record(task)) is None or record.status in {"ok", *retry})
    }
