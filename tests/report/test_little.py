"""A report of little says so, and one of enough does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.report.little import FEW_ITEMS, FEW_PROCESSES, little_measured
from tests.pages import written_as
from tests.record_factory import footprint_record, latency_record, quality_record

if TYPE_CHECKING:
    from qbench.core.record import Record

WIDE = "Little was measured, so that intervals are wide: "


def times(count: int) -> list[Record]:
    """Of two precisions, one of them in more processes."""
    return [latency_record("fp32", at) for at in range(FEW_PROCESSES)] + [
        latency_record("nf4", at) for at in range(count)
    ]


def first(count: int, measurement: str = "quality") -> Record:
    """A text or a task of which the first so many items were taken."""
    record = quality_record("fp32")
    changed = {"params": record.item.params | {"limit": count}, "measurement": measurement}
    return record.model_copy(update={"item": record.item.model_copy(update=changed)})


def test_few_processes() -> None:
    assert little_measured(times(1)) == f"{WIDE}times in 1 process."
    assert little_measured(times(FEW_PROCESSES - 1)) == f"{WIDE}times in 2 processes."
    assert little_measured(times(FEW_PROCESSES)) is None
    failed = latency_record("int8").model_copy(update={"status": "oom", "metrics": ()})
    assert little_measured([*times(FEW_PROCESSES), failed]) is None


@pytest.mark.parametrize(
    ("measurement", "words"), [("quality", "windows of a text"), ("tasks", "items of a task")]
)
def test_texts_and_tasks_that_are_cut_short(measurement: str, words: str) -> None:
    few = [first(60, measurement), first(24, measurement)]
    assert little_measured([*few, *times(FEW_PROCESSES)]) == f"{WIDE}24 {words}."
    assert little_measured([first(FEW_ITEMS, measurement), quality_record("nf4")]) is None


def test_the_page_says_it_beside_the_table() -> None:
    others = [footprint_record("fp32"), footprint_record("nf4")]
    assert f"{WIDE}times in 2 processes." in written_as("markdown", [*others, *times(2)])
    enough = written_as("markdown", [*others, *times(FEW_PROCESSES)])
    assert "Little was measured" not in enough
