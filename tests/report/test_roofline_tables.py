"""The tables of how near cells and trainings came to the limits, from records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.compare.selection import select
from qbench.compare.tuned.arms import arms_of
from qbench.report.details import detail_tables
from qbench.report.roofline import TITLE, roofline_tables, training_roofline_table
from tests.pages import whole_report as render
from tests.record_factory import footprint_record, latency_record, make_metric
from tests.tuned_records import finetune_records, make_tuning, training_record

if TYPE_CHECKING:
    from qbench.core.page import Table
    from qbench.core.record import Record

LIMITS = {
    "latency.read_bandwidth": 3.2e12,
    "latency.matrix_rate": 8.1e14,
    "latency.decode.read_bytes": 4.0e9,
    "latency.prefill.operations": 7.1e12,
    "latency.prefill.matrix_share": 0.42,
}


def with_limits(precision: str, batch: int = 1) -> Record:
    metrics = [make_metric(name, value) for name, value in LIMITS.items()]
    record = latency_record(precision, batch=batch)
    return record.model_copy(update={"metrics": (*record.metrics, *metrics)})


def of_before(precision: str) -> Record:
    """A record whose floor is at the bandwidth of copies."""
    record = latency_record(precision)
    kept = [one for one in record.metrics if ".read_" not in one.name]
    old = {
        "latency.copy_bandwidth": 3.2e12,
        "latency.decode.bytes": 4.0e9,
        "latency.decode.floor": 0.001,
        "latency.decode.floor_share": 1.02,
    }
    made = [make_metric(name, value) for name, value in old.items()]
    return record.model_copy(update={"metrics": (*kept, *made)})


def tables(records: list[Record]) -> list[Table]:
    (selected,) = select(records).tables
    return roofline_tables(selected)


def test_a_table_for_each_point_in_readable_units() -> None:
    records = [with_limits("fp32"), with_limits("nf4"), with_limits("nf4", batch=8)]
    small, large = tables(records)
    assert small.title == f"{TITLE}: batch 1, 128 prompt tokens, 32 new tokens"
    assert [row.label for row in small.rows] == ["fp32", "nf4"]
    assert [row.label for row in large.rows] == ["nf4"]
    shown = {key: small.column(key)[1].value for key in LIMITS}
    assert shown["latency.read_bandwidth"] == pytest.approx(3200)
    assert shown["latency.matrix_rate"] == pytest.approx(810_000)
    assert shown["latency.prefill.operations"] == pytest.approx(7100)
    assert shown["latency.decode.read_bytes"] == LIMITS["latency.decode.read_bytes"]
    assert shown["latency.prefill.matrix_share"] == 0.42
    assert small.column("latency.decode.read_share")[1].value == 0.21


def test_what_no_record_holds_has_no_column() -> None:
    """Records of an earlier qbench hold other floors."""

    def columns(record: Record) -> set[str]:
        (selected,) = select([footprint_record("fp32"), record]).tables
        (table,) = (one for one in detail_tables(selected) if one.title.startswith(TITLE))
        return {column.key for column in table.columns}

    floor = {"latency.decode", "latency.decode.read_floor", "latency.decode.read_share"}
    assert columns(latency_record("fp32")) == floor
    assert columns(of_before("fp32")) == {
        "latency.decode",
        "latency.copy_bandwidth",
        "latency.decode.bytes",
        "latency.decode.floor",
        "latency.decode.floor_share",
    }
    assert columns(with_limits("fp32")) == floor | set(LIMITS)


def test_trainings_have_a_table_of_their_own() -> None:
    tuning = make_tuning("qlora-nf4")
    record = training_record(tuning)
    limits = {
        "training.operations": 5.7e13,
        "training.matrix_rate": 8.0e14,
        "training.matrix_share": 0.31,
    }
    made = (*record.metrics, *(make_metric(name, value) for name, value in limits.items()))
    others = [one for one in finetune_records() if one.item.measurement != "training"]
    records = [*others, record.model_copy(update={"metrics": made})]
    (selected,) = select(records).tables
    table = training_roofline_table(arms_of(selected))
    (row,) = table.rows
    assert row.label == "qlora-nf4"
    assert [column.key for column in table.columns] == [
        "training.operations",
        "training.step_time",
        "training.matrix_rate",
        "training.matrix_share",
    ]
    assert row.figures[0].value == pytest.approx(57_000)
    assert row.figures[3].value == 0.31
    page = render(records)
    assert f"### {TITLE}: a training step" in page
    assert "rate reached" in page


def test_trainings_without_a_rate_have_none() -> None:
    (selected,) = select(finetune_records()).tables
    assert training_roofline_table(arms_of(selected)).rows == ()
