"""The pictures of the differences hold the figures of their table, and the margins."""

from __future__ import annotations

import pytest

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import one_change
from qbench.compare.selection import select
from qbench.core.page import Charts
from qbench.report.charts.forest import change_of, difference_charts
from qbench.report.differences import differences_of, table_of
from tests.paired_records import divergence, footprint, latency, losses, quality, untouched
from tests.record_factory import make_record
from tests.report.charts.specs import by_cell, charts_of, values, without_data

RECORDS = [
    *untouched("fp32"),
    *untouched("int8"),
    quality("nf4", losses(0.02, seed=2)),
    *latency("nf4", [0.0190, 0.0191, 0.0189, 0.0192, 0.0188]),
    footprint("nf4", 300_000),
]


def test_each_chart_has_the_figures_of_its_row_in_percent_or_as_they_are() -> None:
    differences = differences_of(select(RECORDS).tables[0])
    assert differences is not None
    table = table_of(differences)
    charts = {chart.title: chart for chart in charts_of(difference_charts(differences))}
    compared = 0
    for row in table.rows:
        drawn = by_cell(charts[row.label])
        margin = row.figures[-1].word or ""
        factor = 100 if "%" in margin else 1
        for column, figure in zip(table.columns, row.figures, strict=True):
            if figure.value is None or figure.low is None or figure.high is None:
                assert column.key not in drawn
                continue
            found = drawn[column.key]
            shown = [found["low"], found["value"], found["high"]]
            expected = [figure.low, figure.value, figure.high]
            assert shown == pytest.approx([factor * one for one in expected], rel=1e-4)
            assert (figure.word or "").endswith(found["verdict"])
            compared += 1
    assert compared == 7
    assert charts["memory.static"].spec["layer"][0]["mark"]["type"] == "rule", "no band of nothing"


def test_the_band_is_the_margin_and_the_thick_line_the_90_percent_interval() -> None:
    (table,) = select(RECORDS).tables
    differences = differences_of(table)
    assert differences is not None
    chart = next(
        one for one in charts_of(difference_charts(differences)) if one.title.startswith("perplex")
    )
    band = chart.spec["layer"][0]
    assert band["mark"]["type"] == "rect"
    assert {row["margin"] for row in values(chart)} == {0.5}
    cells = {cell.label: cell.of("quality") for cell in table.cells}
    found = one_change(cells["nf4"], cells["fp32"], "perplexity", Sampling(), same_run=True)
    assert hasattr(found, "estimate")
    assert found.estimate is not None
    ends = [100 * found.shown(found.estimate.limit(share)) for share in (0.05, 0.95)]
    drawn = by_cell(chart)["nf4"]
    assert [drawn["inner_low"], drawn["inner_high"]] == pytest.approx(ends, rel=1e-4)
    assert drawn["low"] < drawn["inner_low"] < drawn["value"] < drawn["inner_high"] < drawn["high"]


def test_changes_that_differ_by_powers_have_an_axis_that_shows_the_margin() -> None:
    small, large = [0.0004] * 60, [0.5 + index % 3 / 100 for index in range(60)]
    records = [divergence("fp32", [0.0] * 60), divergence("int8", small), divergence("int2", large)]
    differences = differences_of(select(records).tables[0])
    assert differences is not None
    chart = next(
        one for one in charts_of(difference_charts(differences)) if one.title.startswith("kl")
    )
    x = chart.spec["layer"][-1]["encoding"]["x"]
    assert (x["scale"]["type"], x["scale"]["constant"]) == ("symlog", 0.001)
    low, high = x["scale"]["domain"]
    rows = by_cell(chart).values()
    assert low <= min(-0.001, *(row["low"] for row in rows))
    assert high >= max(row["high"] for row in rows) * 0.9999
    assert x["axis"]["values"] == [-0.001, 0.0, 0.001, 0.01, 0.1]


def test_names_stand_in_the_data_alone() -> None:
    name = "</script>'+alert(1)+'"
    records = [quality("fp32", losses(0.0)), quality(name, losses(0.02))]
    differences = differences_of(select(records).tables[0])
    assert differences is not None
    (chart,) = charts_of(difference_charts(differences))
    assert list(by_cell(chart)) == [name]
    assert "alert" not in without_data(chart.spec)


def test_what_has_no_interval_is_not_drawn() -> None:
    records = [make_record(cell, "latency", {"latency.decode": 0.1}) for cell in ("fp32", "nf4")]
    (table,) = select(records).tables
    differences = differences_of(table)
    assert differences is not None
    assert difference_charts(differences) == []
    (one,) = differences.found
    assert change_of("nf4", one.found, one.mark, one.verdict, one.line.allowance) is None


def test_what_costs_differ_by_is_opened_unless_there_is_nothing_else() -> None:
    differences = differences_of(select(RECORDS).tables[0])
    assert differences is not None
    first, more = difference_charts(differences)
    assert isinstance(first, Charts)
    assert isinstance(more, Charts)
    assert (bool(first.folded), bool(more.folded)) == (False, True)
    many = [quality(f"cell-{at}", losses(0.02)) for at in range(61)]
    differences = differences_of(select([*RECORDS, *many]).tables[0])
    assert differences is not None
    assert all(isinstance(one, Charts) and one.folded for one in difference_charts(differences))
    costs = [footprint("fp32", 2_000), footprint("nf4", 500)]
    differences = differences_of(select(costs).tables[0])
    assert differences is not None
    (only,) = difference_charts(differences)
    assert isinstance(only, Charts)
    assert not only.folded
