"""The pictures of a gate hold what each check found, its interval and what is allowed."""

from __future__ import annotations

import pytest

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.gate.gate import run_gate
from qbench.report.charts.gate import gate_charts
from qbench.report.gate.page import gate_page
from tests.compare.gate.rule_section import read_rules
from tests.paired_records import footprint, losses, quality, task
from tests.report.charts.specs import by_cell, charts_of, without_data

NAME = "</script>'+alert(1)+'"
RULES = {
    "perplexity": {"max_increase": "1%"},
    "memory.static": {"max_increase": "2%"},
    "tasks.accuracy": {"max_drop": 0.02},
}
SCORES = [1.0] * 320 + [0.0] * 80
OLD = [
    *(quality(label, losses(0.0)) for label in ("fp32", NAME)),
    footprint("fp32", 1000),
    task("fp32", SCORES),
]
NEW = [
    quality("fp32", losses(0.0, seed=2)),
    quality(NAME, losses(0.05, seed=3)),
    footprint("fp32", 900),
    task("fp32", [0.0] * 10 + SCORES[10:]),
]


def test_each_check_is_drawn_beside_what_is_allowed() -> None:
    outcome = run_gate(read_rules(RULES), NEW, OLD, sampling=Sampling(resamples=1000))
    charts = {chart.title.partition(",")[0]: chart for chart in charts_of(gate_page(outcome).parts)}
    found = 0
    for check in outcome.checks:
        difference = check.verdict.difference
        if difference is None or difference.estimate is None or check.cell is None:
            continue
        assert check.metric is not None
        assert check.verdict.low is not None
        assert check.verdict.high is not None
        drawn = by_cell(charts[check.metric])[check.cell.label]
        factor = 100 if check.margin.relative else 1
        value = difference.shown(difference.estimate.value)
        ends = [factor * end for end in (check.verdict.low, value, check.verdict.high)]
        assert [drawn[key] for key in ("low", "value", "high")] == pytest.approx(ends, rel=1e-4)
        assert drawn["verdict"] == check.verdict.name
        found += 1
    assert found == 4
    allowed = {
        name: next(iter(by_cell(chart).values()))["allowed"] for name, chart in charts.items()
    }
    assert allowed == {"perplexity": 1.0, "memory.static": 2.0, "accuracy": -0.02}
    assert by_cell(charts["perplexity"])[NAME]["verdict"] == "broken"
    for chart in charts.values():
        assert "alert" not in without_data(chart.spec)
    assert "at least as marked" in without_data(charts["accuracy"].spec)


def test_what_is_counted_from_another_side_has_a_picture_of_its_own() -> None:
    rules = {**RULES, "perplexity": {"max_increase": "1%", "against": "reference"}}
    outcomes = [
        run_gate(read_rules(one), NEW, OLD, sampling=Sampling(resamples=1000))
        for one in (RULES, rules)
    ]
    titles = [
        chart.title
        for outcome in outcomes
        for chart in charts_of(gate_charts(outcome))
        if chart.title.startswith("perplexity")
    ]
    slug = "perplexity, text-w256-default"
    assert titles == [f"{slug} against the baseline", f"{slug} against the reference"]


def test_what_was_not_found_is_not_drawn() -> None:
    outcome = run_gate(read_rules(RULES), [], OLD, sampling=Sampling(resamples=1000))
    assert gate_charts(outcome) == []
