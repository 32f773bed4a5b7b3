"""Time left, from the durations of what was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.spec import ResolvedModel
from qbench.plan.estimate import Estimate
from qbench.plan.job import Job, Task
from tests.record_factory import footprint_record, latency_record, make_failure, quality_record

if TYPE_CHECKING:
    from qbench.core.record import Record


def pair(record: Record) -> tuple[Job, Task]:
    """The job and task that would leave this record."""
    task = Task(item=record.item, key=record.key, identity=record.identity, path="x")
    model = ResolvedModel(
        ref=record.cell.model, folder=None, revision=None, fingerprint="", architecture="llama",
        context_tokens=None, shape=None,
    )  # fmt: skip
    job = Job(
        suite=record.suite, cell=record.cell, reference=record.reference, model=model,
        predicted=None, device="cpu", environment=record.environment, tasks=(task,),
    )  # fmt: skip
    return job, task


def test_nothing_left_takes_no_time() -> None:
    assert Estimate().seconds([]) == 0.0


def test_unknown_while_one_item_was_never_taken() -> None:
    estimate = Estimate([footprint_record("fp32", duration_s=2.0)])
    left = [pair(footprint_record("nf4")), pair(quality_record("nf4"))]
    assert estimate.seconds(left) is None


def test_the_cells_own_repeats_count_before_other_cells() -> None:
    estimate = Estimate([latency_record("fp32", 0, duration_s=10.0)])
    estimate.add(latency_record("nf4", 0, duration_s=2.0))
    estimate.add(latency_record("nf4", 1, duration_s=4.0))
    assert estimate.seconds([pair(latency_record("nf4", 2))]) == 3.0


def test_the_same_item_of_other_cells_serves_else() -> None:
    estimate = Estimate([latency_record("fp32", duration_s=10.0)])
    estimate.add(latency_record("bf16", duration_s=20.0))
    assert estimate.seconds([pair(latency_record("nf4")), pair(latency_record("int8"))]) == 30.0


def test_another_point_of_the_grid_is_another_item() -> None:
    estimate = Estimate([latency_record("fp32", batch=1, duration_s=10.0)])
    assert estimate.seconds([pair(latency_record("fp32", batch=4))]) is None


def test_failures_and_records_without_a_duration_teach_nothing() -> None:
    estimate = Estimate(
        [
            make_failure("fp32", "footprint", "crash", "died", duration_s=99.0),
            footprint_record("bf16", duration_s=None),
        ]
    )
    assert estimate.seconds([pair(footprint_record("nf4"))]) is None
