"""The picture of the machine's limits holds the shares of its table."""

from __future__ import annotations

import pytest

from qbench.compare.selection import select
from qbench.report.charts.roofline import roofline_chart
from qbench.report.roofline import roofline_tables
from tests.record_factory import latency_record, make_metric, make_record
from tests.report.charts.specs import values, without_data

NAME = "</script>'+alert(1)+'"


def test_shares_are_those_of_the_table_in_percent() -> None:
    records = [
        latency_record("fp32"),
        make_record(
            NAME,
            "latency",
            {"latency.decode.read_floor": 0.1, "latency.decode.read_share": 0.5},
            slug="b1-p128-n32",
            more_metrics=(make_metric("latency.prefill.matrix_share", 0.125),),
        ),
    ]
    (table,) = roofline_tables(select(records).tables[0])
    chart = roofline_chart(table)
    assert chart is not None
    assert [(row["cell"], row["limit"], row["value"]) for row in values(chart)] == [
        ("fp32", "decode, of the read bandwidth", pytest.approx(21.0)),
        (NAME, "decode, of the read bandwidth", 50.0),
        (NAME, "prefill, of the matrix rate", 12.5),
    ]
    assert "alert" not in without_data(chart.spec)
    assert "copy" not in without_data(chart.spec)


def test_no_limit_no_picture() -> None:
    record = make_record("fp32", "latency", {"latency.decode.read_floor": 0.1}, slug="b1-p128-n32")
    (table,) = roofline_tables(select([record]).tables[0])
    assert roofline_chart(table) is None
