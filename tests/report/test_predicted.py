"""Predicted against measured in the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.compare.selection import select
from qbench.core.page import Bullets, Heading
from qbench.report.predicted import predicted_parts, predicted_table
from tests.pages import whole_report as render
from tests.record_factory import make_environment, make_record, quickstart_records
from tests.tuned_records import finetune_records, make_tuning, training_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Table
    from qbench.core.record import Record


def _memory(
    precision: str, predicted: float | None, measured: float, batch: int = 1, **changes: object
) -> Record:
    metrics = {"memory.peak.predicted": predicted, "memory.peak.inference": measured}
    return make_record(precision, "memory", metrics, slug=f"b{batch}-p8-n8", **changes)  # type: ignore[arg-type]


def _footprint(precision: str, predicted: float, measured: float) -> Record:
    metrics = {"memory.static": measured, "memory.static.predicted": predicted}
    return make_record(precision, "footprint", metrics)


def _table(records: Sequence[Record]) -> Table:
    return predicted_table(select(records).tables[0])


def _rows(table: Table) -> list[tuple[str, str | None, float | None, float | None, float | None]]:
    return [
        (row.label, row.figures[0].word, *(figure.value for figure in row.figures[1:]))  # type: ignore[misc]
        for row in table.rows
    ]


def test_each_point_of_a_cell_has_a_row() -> None:
    found = _rows(_table([_memory("fp32", 200.0, 210.0), _memory("fp32", 400.0, 390.0, batch=8)]))
    assert [row[:4] for row in found] == [
        ("fp32", "inference b1-p8-n8", 200.0, 210.0),
        ("fp32", "inference b8-p8-n8", 400.0, 390.0),
    ]
    assert [row[4] for row in found] == pytest.approx([0.05, -0.025])


def test_static_bytes_have_a_row_only_where_they_differ() -> None:
    records = [_footprint("fp32", 1000, 1000), _footprint("nf4", 300, 310)]
    table = _table(records)
    assert [row[:4] for row in _rows(table)] == [("nf4", "static bytes", 300, 310)]
    assert "equal to the byte in 1 of 2 cells" in render(records)


def test_all_equal_is_said_once() -> None:
    records = [_footprint("fp32", 1000, 1000), _footprint("nf4", 300, 300)]
    heading, notes = predicted_parts(select(records).tables[0], several=False)
    assert heading == Heading("Predicted against measured")
    assert isinstance(notes, Bullets)
    assert "equal to the byte in 2 cells, that is in all" in str(notes.items[0].line)


def test_a_training_by_its_prediction() -> None:
    record = training_record(make_tuning("qlora-nf4"))
    peak = next(m.value for m in record.metrics if m.name == "training.memory.peak")
    assert peak is not None
    predicted = next(m for m in record.metrics if m.name == "training.memory.peak").model_copy(
        update={"name": "training.memory.peak_predicted", "value": 0.8 * peak}
    )
    newer = record.model_copy(update={"metrics": (*record.metrics, predicted)})
    (row,) = _rows(_table([newer]))
    assert row[1:4] == ("training step", 0.8 * peak, peak)


def test_of_an_older_training_the_explained_part() -> None:
    record = training_record(make_tuning("qlora-nf4"))
    values = {metric.name: metric.value for metric in record.metrics}
    peak, rest = values["training.memory.peak"], values["training.memory.unexplained"]
    assert peak is not None
    assert rest is not None
    (row,) = _rows(_table([record]))
    assert row[2:4] == (peak - rest, peak)


def test_what_was_not_predicted_has_no_row() -> None:
    assert _rows(_table([_memory("fp32", None, 100.0)])) == []
    failed = make_record("nf4", "memory", {}, slug="b1-p8-n8", status="oom", reason="no memory")
    assert _rows(_table([failed])) == []


@pytest.mark.parametrize(
    ("device_type", "word"), [("cpu", "On a CPU the tensors"), ("cuda", "On a GPU measured peaks")]
)
def test_what_was_measured_is_said(device_type: str, word: str) -> None:
    environment = make_environment(device_type=device_type)
    page = render([_memory("fp32", 200.0, 210.0, environment=environment)])
    assert word in page


@pytest.mark.parametrize(
    "records", [quickstart_records(), finetune_records()], ids=["held", "tuned"]
)
def test_every_report_has_the_section_where_anything_was_predicted(records: list[Record]) -> None:
    page = render(records)
    predicted = any(
        metric.name in {"memory.static.predicted", "training.memory.unexplained"}
        for record in records
        for metric in record.metrics
    )
    assert ("## Predicted against measured" in page) == predicted
