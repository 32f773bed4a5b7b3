"""The pictures of memory: kinds that add up to the static bytes, peaks beside their prediction."""

from __future__ import annotations

import pytest

from qbench.compare.selection import select
from qbench.report.charts.memory import peak_charts, stacked, static_chart
from qbench.report.predicted import predicted_table
from tests.record_factory import footprint_record, make_record, static_bytes
from tests.report.charts.specs import values, without_data

NAME = "</script>'+alert(1)+'"
MIB = 2**20


def test_the_kinds_of_each_cell_add_up_to_its_static_bytes() -> None:
    records = [footprint_record(cell) for cell in ("fp32", "nf4")]
    chart = static_chart(select(records).tables[0].cells)
    assert chart is not None
    assert chart.spec["layer"][0]["encoding"]["x"]["axis"]["title"] == "static bytes (MiB)"
    for cell in ("fp32", "nf4"):
        rows = [row for row in values(chart) if row["cell"] == cell]
        kinds = static_bytes(cell)
        assert [row["value"] for row in rows] == pytest.approx(
            [size / MIB for size in kinds.values() if size], rel=1e-4
        )
        totals = [sum(kinds.values()) / MIB] * len(rows)
        assert [row["total"] for row in rows] == pytest.approx(totals, rel=1e-4)
        assert rows == sorted(rows, key=lambda row: row["order"])
    (marks,) = (layer for layer in chart.spec["layer"] if "data" in layer)
    assert {row["cell"]: row["mark"] for row in marks["data"]["values"]} == {
        cell: pytest.approx(sum(static_bytes(cell).values()) / MIB, rel=1e-4)
        for cell in ("fp32", "nf4")
    }


def test_a_peak_is_the_static_bytes_and_what_is_on_top() -> None:
    peak = {"memory.peak.predicted": 6 * MIB, "memory.peak.inference": 8 * MIB}
    records = [
        make_record("fp32", "footprint", {"memory.static": 5 * MIB}),
        make_record("fp32", "memory", peak, slug="b1-p8-n8"),
        make_record(NAME, "memory", peak, slug="b1-p8-n8"),
    ]
    (table,) = select(records).tables
    (chart,) = peak_charts(table.every, predicted_table(table))
    found = [(row["cell"], row["kind"], row["value"], row["total"]) for row in values(chart)]
    assert found == [
        ("fp32", "static", 5.0, 8.0),
        ("fp32", "on top of it", 3.0, 8.0),
        (NAME, "all", 8.0, 8.0),
    ]
    assert chart.spec["layer"][1]["data"]["values"] == [
        {"cell": "fp32", "mark": 6.0},
        {"cell": NAME, "mark": 6.0},
    ]
    assert "alert" not in without_data(chart.spec)


def test_nothing_measured_nothing_drawn() -> None:
    (table,) = select([make_record("fp32", "latency", {"latency.decode": 0.1})]).tables
    assert static_chart(table.cells) is None
    assert peak_charts(table.every, predicted_table(table)) == []
    assert stacked("title", "axis", []) is None
