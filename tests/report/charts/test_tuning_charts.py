"""The pictures of fine-tuning hold the figures of its tables and the losses of its records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.compare.selection import select
from qbench.compare.tuned.arms import arms_of
from qbench.core.page import Charts
from qbench.report.charts.tuning import (
    MOST_POINTS,
    arm_charts,
    curve_charts,
    deployment_charts,
    step_memory_charts,
)
from qbench.report.finetune.deployments import deployments_table
from qbench.report.finetune.memory import memory_table
from qbench.report.finetune.results import results_of
from qbench.report.finetune.table import arms_table
from tests.record_factory import quickstart_records
from tests.report.charts.specs import by_cell, charts_of, values, without_data
from tests.tuned_records import (
    GAIN,
    PEAK_BYTES,
    STEPS,
    finetune_records,
    make_tuning,
    step_losses,
    training_record,
)

if TYPE_CHECKING:
    from qbench.core.page import Chart, Figure, Table

RECORDS = finetune_records((0, 1, 2))
(SELECTED,) = select(RECORDS).tables
RESULTS = results_of(SELECTED)
ARMS = [one.arm for one in RESULTS.arms]
NAME = "</script>'+alert(1)+'"


def column(table: Table, key: str) -> dict[str, Figure]:
    return dict(zip([row.label for row in table.rows], table.column(key), strict=True))


def assert_drawn(chart: Chart, expected: dict[str, Figure], factor: float = 1.0) -> None:
    """The rows of the chart are the figures that have an interval."""
    known = {
        label: [factor * end for end in (figure.low, figure.value, figure.high)]
        for label, figure in expected.items()
        if figure.low is not None and figure.value is not None and figure.high is not None
    }
    drawn = by_cell(chart)
    assert list(drawn) == list(known)
    for label, ends in known.items():
        found = [drawn[label][key] for key in ("low", "value", "high")]
        assert found == pytest.approx(ends, rel=1e-4, abs=1e-9)
        assert (expected[label].word or "").endswith(drawn[label]["verdict"])


def test_arms_are_drawn_as_their_table_has_them() -> None:
    gained, against, forgotten = charts_of(arm_charts(RESULTS))
    table = arms_table(RESULTS)
    assert list(by_cell(gained)) == list(GAIN)
    for arm, row in by_cell(gained).items():
        assert row["low"] < GAIN[arm] < row["high"]
        assert row["verdict"] == "better"
    assert_drawn(
        against, {label: one for label, one in column(table, "against").items() if label in GAIN}
    )
    changes = column(table, "forgetting:neutral-w256-default")
    assert_drawn(forgotten, {arm: changes[arm] for arm in GAIN}, 100)
    assert "difference (nat)" in without_data(against.spec)
    assert "change (%)" in without_data(forgotten.spec)


def test_deployments_are_drawn_as_their_table_has_them() -> None:
    changed, text = charts_of(deployment_charts(SELECTED, RESULTS))
    table = deployments_table(SELECTED, RESULTS)
    assert_drawn(changed, column(table, "change"))
    assert_drawn(text, column(table, "change:neutral-w256-default"), 100)


def test_the_memory_of_a_step_adds_up_to_its_peak() -> None:
    (chart,) = charts_of(step_memory_charts(memory_table(ARMS)))
    marks = chart.spec["layer"][1]["data"]["values"]
    mib = 2**20
    assert {row["cell"]: row["mark"] for row in marks} == {
        arm: pytest.approx(peak / mib, rel=1e-4) for arm, peak in PEAK_BYTES.items()
    }
    for arm, peak in PEAK_BYTES.items():
        kinds = {row["kind"]: row["value"] for row in values(chart) if row["cell"] == arm}
        assert math.fsum(kinds.values()) == pytest.approx(peak / mib, rel=1e-3)
        assert kinds["activations, predicted"] == pytest.approx(0.35 * peak / mib, rel=1e-3)
        assert "adapters" not in kinds, "nothing is not drawn"
    assert "measured peak" in chart.caption


def test_each_training_has_its_losses() -> None:
    trained, held_out = charts_of(curve_charts(ARMS))
    for arm in GAIN:
        for seed in (0, 1, 2):
            own = [row for row in values(trained) if row["training"] == f"{arm}-s{seed}"]
            assert {row["cell"] for row in own} == {arm}
            assert [row["step"] for row in own] == list(range(1, STEPS + 1))
            assert [row["loss"] for row in own] == pytest.approx(step_losses(arm, seed), rel=1e-4)
            own = [row for row in values(held_out) if row["training"] == f"{arm}-s{seed}"]
            assert [row["step"] for row in own] == [0, STEPS]
            ends = [3.3, 3.3 + GAIN[arm] + 0.01 * seed]
            assert [row["loss"] for row in own] == pytest.approx(ends)


def test_long_curves_are_means_over_equal_stretches() -> None:
    losses = [float(at) for at in range(1, 1001)]
    losses[5] = math.nan
    record = training_record(make_tuning(), series={"step_loss": losses})
    (chart,) = charts_of(curve_charts(arms_of(select([record]).tables[0])))
    assert len(values(chart)) == 100
    means = [np.nanmean(losses[at : at + 10]) for at in range(0, 1000, 10)]
    assert [row["loss"] for row in values(chart)] == pytest.approx(means, rel=1e-4)
    assert [row["step"] for row in values(chart)][:2] == [5.5, 15.5]


def test_many_trainings_have_fewer_points_each() -> None:
    records = [
        training_record(make_tuning(seed=seed), series={"step_loss": [1.0] * 500})
        for seed in range(150)
    ]
    (group,) = curve_charts(arms_of(select(records).tables[0]))
    assert isinstance(group, Charts)
    assert [len(values(chart)) for chart in group.charts] == [MOST_POINTS]
    assert "40 of them" in group.caption


def test_names_stand_in_the_data_alone() -> None:
    record = training_record(make_tuning(label=NAME, arm="lora-bf16"))
    (table,) = select([record]).tables
    for chart in charts_of(curve_charts(arms_of(table))):
        assert {row["training"] for row in values(chart)} == {NAME}
        assert "alert" not in without_data(chart.spec)


def test_nothing_tuned_nothing_drawn() -> None:
    (table,) = select(quickstart_records()).tables
    assert curve_charts(arms_of(table)) == []
    assert step_memory_charts(memory_table(arms_of(table))) == []
