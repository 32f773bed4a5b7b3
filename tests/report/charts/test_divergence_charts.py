"""The pictures of the divergence hold its quantiles, and histograms of tokens or windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.selection import select
from qbench.core.log_bins import EDGES, stored
from qbench.report.charts.axes import decades
from qbench.report.charts.divergence import divergence_charts
from qbench.report.quality import divergence_table
from tests.compare.test_quantile_intervals import drawn as drawn_kl
from tests.compare.test_quantile_intervals import record_of as quantile_record
from tests.paired_records import TOKENS, divergence, losses, quality
from tests.record_factory import make_metric
from tests.report.charts.specs import values, without_data

if TYPE_CHECKING:
    from qbench.core.page import Chart
    from qbench.core.record import Record

SLUG = "text-w256-default"
QUANTILES = {"median": 0.001, "p90": 0.01, "p99": 0.1, "p99_9": 0.5, "max": 1.5}
NAMES = {"median": "median", "p90": "p90", "p99": "p99", "p99_9": "p99.9", "max": "max"}
NAME = "</script>'+alert(1)+'"


def record(cell: str, means: list[float], counts: list[int] | None = None) -> Record:
    made = divergence(cell, means)
    metrics = (make_metric(f"kl.{name}", value) for name, value in QUANTILES.items())
    details: dict[str, Any] = {**made.details}
    if counts is not None:
        details["kl_histogram"] = stored(counts)
    return made.model_copy(
        update={"metrics": (*made.metrics, *metrics), "details": details}, deep=True
    )


def drawn(*records: Record) -> list[Chart]:
    (table,) = select(records).tables
    return divergence_charts(table, SLUG, "prose")


def test_the_quantiles_are_those_of_the_table() -> None:
    records = [record("fp32", [0.0] * 9), record(NAME, [0.02] * 9)]
    table = divergence_table(select(records).tables[0], SLUG)
    chart, _ = drawn(*records)
    found = {row["quantile"]: row["value"] for row in values(chart)}
    row = table.rows[-1]
    shown = {
        column.key: figure.value for column, figure in zip(table.columns, row.figures, strict=True)
    }
    assert found == {
        **{NAMES[name]: shown[f"kl.{name}"] for name in QUANTILES},
        "mean": pytest.approx(shown["kl.mean"]),
    }
    assert {row["cell"] for row in values(chart)} == {NAME}
    assert "alert" not in without_data(chart.spec)


def test_the_tokens_are_drawn_where_a_record_counts_them() -> None:
    counts = [5, *[0] * 20, 10, 80, *[0] * 22, 5]
    older = record("int8", [0.001] * 9)
    _, chart = drawn(
        record("fp32", [0.0] * 9, [9, *[0] * 45]), older, record(NAME, [0.02] * 9, counts)
    )
    assert chart.title == "Divergence of the tokens (1 of 2 cells keep a histogram): prose"
    assert values(chart) == [
        {
            "cell": NAME,
            "low": pytest.approx(EDGES[at], rel=1e-4),
            "high": pytest.approx(EDGES[at + 1], rel=1e-4),
            "share": share,
        }
        for at, share in ((20, 10.0), (21, 80.0))
    ]
    assert "alert" not in without_data(chart.spec)


def test_of_older_records_the_windows_are_drawn_and_said_to_be() -> None:
    means = {
        cell: list(np.random.default_rng(seed).lognormal(-5, 1, 200))
        for seed, cell in enumerate(("int8", "nf4"))
    }
    records = [record("fp32", [0.0] * 200), *(record(*one) for one in means.items())]
    _, chart = drawn(*records)
    assert "windows" in chart.title
    assert "keep no histogram of tokens" in chart.caption
    pooled = np.concatenate(list(means.values()))
    edges = np.logspace(np.log10(pooled.min()), np.log10(pooled.max()), 41)
    for cell, one in means.items():
        found = {row["low"]: row["share"] for row in values(chart) if row["cell"] == cell}
        counts, _ = np.histogram(one, edges)
        expected = {low: count / 2 for low, count in zip(edges, counts, strict=False) if count}
        assert list(found) == pytest.approx(list(expected), rel=1e-4)
        assert list(found.values()) == pytest.approx(list(expected.values()), abs=0.51)
        assert sum(found.values()) == pytest.approx(100, abs=0.1)


def test_no_divergence_no_picture() -> None:
    records = [quality("fp32", losses(0.0)), quality("nf4", losses(0.02))]
    assert drawn(*records) == []
    same = divergence("nf4", [0.0] * 9)
    assert drawn(divergence("fp32", [0.0] * 9), same) == []
    assert sum(same.series["window_tokens"]) == TOKENS * 9


def test_decades_end_where_numbers_do() -> None:
    assert decades([5e-324, 1.7e308])[-1] == 1e308
    assert decades([5e-324])[0] > 0
    assert decades([0.02, 3.0]) == [0.01, 0.1, 1.0, 10.0]


def test_quantiles_with_intervals_have_bars_behind_them() -> None:
    damaged = quantile_record(drawn_kl(1), NAME)
    nothing = quantile_record(np.zeros((100, TOKENS)), "fp32")
    chart, *_ = drawn(nothing, damaged, quantile_record(drawn_kl(3), "int8"))
    rows = {(row["cell"], row["quantile"]): row for row in values(chart)}
    for name in ("median", "p90", "p99"):
        row = rows[NAME, name]
        low, high = level([damaged], f"kl.{name}", sampling=Sampling()).ends(0.025)
        assert [row["low"], row["high"]] == pytest.approx([low, high], rel=1e-4)
        assert row["low"] < row["value"] < row["high"]
    short = drawn(nothing, quantile_record(drawn_kl(3)[:30], "int8"))[0]
    ends = {row["quantile"]: "low" in row for row in values(short)}
    assert ends["p90"]
    assert not ends["p99.9"]  # too few windows hold tokens beyond it
    assert (
        chart.caption
        == "Bars behind the signs are 95 % intervals, where these are wider than the sign."
    )
    assert len(chart.spec["layer"]) == 3
