"""The picture of a latency: the samples of each process and their median, thinned where many."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.compare.items import items
from qbench.compare.selection import select
from qbench.report.charts.latency import MOST_POINTS, latency_chart, thinned
from tests.record_factory import make_failure, make_metric, make_record
from tests.report.charts.specs import values, without_data

if TYPE_CHECKING:
    from qbench.core.page import Chart
    from qbench.core.record import Record

SLUG = "b1-p8-n8"
NAME = "</script>'+alert(1)+'"


def process(cell: str, repeat: int, samples: list[float]) -> Record:
    metric = make_metric("latency.decode", statistics.median(samples), samples=tuple(samples))
    return make_record(cell, "latency", slug=SLUG, repeat=repeat, more_metrics=(metric,))


def drawn(*records: Record) -> Chart:
    (table,) = select(records).tables
    chart = latency_chart(table, items(table, "latency")[SLUG], "decode")
    assert chart is not None
    return chart


def points(chart: Chart) -> list[dict[str, float | str]]:
    found: list[dict[str, float | str]] = chart.spec["layer"][0]["data"]["values"]
    return found


def test_every_sample_and_every_median_in_the_unit_of_the_axis() -> None:
    samples = {
        (cell, repeat): list(np.random.default_rng(repeat).uniform(0.002, 0.004, 7))
        for cell in ("fp32", NAME)
        for repeat in range(5)
    }
    chart = drawn(*(process(*key, each) for key, each in samples.items()))
    assert len(values(chart)) == 10
    for row in values(chart):
        own = samples[row["cell"], row["process"] - 1]
        assert row["value"] == pytest.approx(1e3 * float(np.median(own)), rel=1e-4)
        shown = [
            one["sample"]
            for one in points(chart)
            if (one["cell"], one["process"]) == (row["cell"], row["process"])
        ]
        assert shown == pytest.approx([1e3 * one for one in own], rel=1e-4)
    assert "(ms)" in without_data(chart.spec)
    assert "alert" not in without_data(chart.spec)


def test_of_many_samples_some_are_shown_evenly() -> None:
    assert thinned([1.0, 2.0], 5) == [1.0, 2.0]
    assert thinned([float(at) for at in range(10)], 4) == [0.0, 2.0, 5.0, 7.0]
    chart = drawn(*(process("nf4", repeat, [0.1] * 900) for repeat in range(5)))
    assert len(points(chart)) == MOST_POINTS
    assert "of more than 400, so many evenly spread ones" in chart.caption


def test_of_very_many_processes_the_medians_alone() -> None:
    records = [
        process(f"cell-{cell}", repeat, [0.1, 0.2]) for cell in range(150) for repeat in range(5)
    ]
    chart = drawn(*records)
    assert len(values(chart)) == 750
    assert all(layer.get("data") is None for layer in chart.spec["layer"])
    assert "too many processes" in chart.caption


def test_what_failed_is_not_drawn() -> None:
    failed = make_failure("nf4", "latency", "error", "it broke", slug=SLUG)
    assert latency_chart(select([failed]).tables[0], failed, "decode") is None
    chart = drawn(failed, process("fp32", 0, [0.1]))
    assert {row["cell"] for row in values(chart)} == {"fp32"}
