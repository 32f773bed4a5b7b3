"""The pictures of a comparison: one cell's metrics together by unit, several cells by metric."""

from __future__ import annotations

import pytest

from qbench.compare.compare import compare_records
from qbench.report.charts.comparison import comparison_charts
from qbench.report.comparison import comparison_page
from tests.paired_records import footprint, latency, losses, quality, task, untouched
from tests.report.charts.specs import by_cell, charts_of, values, without_data

NEW = [
    quality("nf4", losses(0.03, seed=2)),
    task("nf4", [1.0] * 300 + [0.0] * 100),
    *latency("nf4", [0.0150, 0.0151, 0.0149, 0.0152, 0.0148]),
    footprint("nf4", 1_100_000),
]


def test_metrics_of_one_cell_stand_together_each_with_its_own_margin() -> None:
    comparison = compare_records(NEW, untouched(), names=("new", "old"))
    changes, differences = charts_of(comparison_page(comparison).parts)
    by_metric = {row.metric: row for row in comparison.rows}
    margins = {"perplexity": 0.5, "latency.decode": 5.0, "memory.static": 0.0}
    assert {name: row["margin"] for name, row in by_cell(changes).items()} == margins
    assert [row["margin"] for row in values(differences)] == [0.01]
    for chart, factor in ((changes, 100), (differences, 1)):
        for metric, drawn in by_cell(chart).items():
            row = by_metric[metric]
            assert row.difference is not None
            assert row.difference.estimate is not None
            assert row.mark.low is not None
            assert row.mark.high is not None
            value = row.difference.shown(row.difference.estimate.value)
            expected = [factor * end for end in (row.mark.low, value, row.mark.high)]
            assert [drawn[key] for key in ("low", "value", "high")] == pytest.approx(
                expected, rel=1e-4
            )
            assert drawn["verdict"] == row.verdict
    assert "change (%)" in without_data(changes.spec)


def test_of_several_cells_each_metric_has_a_picture() -> None:
    name = "</script>'+alert(1)+'"
    new = [*untouched("nf4"), *untouched(name)]
    comparison = compare_records(new, new, names=("new", "old"))
    charts = list(charts_of(comparison_charts(comparison.rows)))
    assert [chart.title.partition(",")[0] for chart in charts] == [
        "perplexity",
        "accuracy",
        "latency.decode",
        "memory.static",
    ]
    for chart in charts:
        assert set(by_cell(chart)) == {"nf4", name}
        assert "alert" not in without_data(chart.spec)


def test_nothing_compared_nothing_drawn() -> None:
    comparison = compare_records([], untouched(), names=("new", "old"))
    assert comparison_charts(comparison.rows) == []
