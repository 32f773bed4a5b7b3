"""Time left, from the durations of what was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.spec import ResolvedModel
from qbench.plan.estimate import Estimate, Left
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


def test_what_is_left_is_told_as_the_sum_over_its_tasks() -> None:
    """At each moment of a run the same as counting all tasks that are left."""
    taken = [
        footprint_record("bf16", duration_s=2.0),
        *(latency_record("bf16", repeat, duration_s=5.0 + repeat) for repeat in range(3)),
        make_failure("nf4", "footprint", "crash", "died", duration_s=99.0),
        *(latency_record("nf4", repeat, duration_s=3.0 * repeat + 1) for repeat in range(3)),
        footprint_record("int8", duration_s=4.0),
        *(latency_record("int8", repeat, duration_s=7.0) for repeat in range(3)),
    ]
    pairs = {record.key: pair(record) for record in taken}
    estimate = Estimate()
    left = Left(estimate)
    left.expect(pairs.values())
    assert left.seconds is None
    for record in taken:
        left.recorded(record)
        del pairs[record.key]
        known = estimate.seconds(pairs.values())
        assert left.seconds == (None if known is None else pytest.approx(known, abs=1e-9))
        assert len(left) == len(pairs)
        assert record.key not in left
    assert left.seconds == pytest.approx(0.0, abs=1e-9)


def test_another_kind_of_device_says_nothing() -> None:
    record = latency_record("fp32", duration_s=10.0)
    of_other = record.environment.model_copy(update={"device_kind": "nvidia-h200"})
    estimate = Estimate([record.model_copy(update={"environment": of_other})])
    assert estimate.seconds([pair(record)]) is None
