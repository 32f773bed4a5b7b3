"""The pictures of a task hold the scores, intervals, chance and flips of its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.compare.selection import select
from qbench.report.charts.tasks import task_charts
from qbench.report.tasks import task_tables
from tests.paired_records import task
from tests.report.charts.specs import by_cell, values, without_data

if TYPE_CHECKING:
    from qbench.core.page import Chart, Table
    from qbench.core.record import Record

NAME = "</script>'+alert(1)+'"
REFERENCE = [1.0] * 60 + [0.0] * 40
OTHER = [0.0] * 7 + [1.0] * 53 + [1.0] * 3 + [0.0] * 37


def drawn(*records: Record) -> tuple[Table, list[Chart]]:
    (table,) = task_tables(select(records).tables[0])
    return table, task_charts(table)


def test_scores_and_intervals_are_those_of_the_table() -> None:
    table, (scores, _) = drawn(task("fp32", REFERENCE), task(NAME, OTHER))
    for row in table.rows:
        found, figure = by_cell(scores)[row.label], row.figures[0]
        assert figure.low is not None
        shown = [found[key] for key in ("low", "value", "high")]
        assert shown == pytest.approx([figure.low, figure.value, figure.high], rel=1e-4)
    assert by_cell(scores)[NAME]["value"] == 0.56
    assert "alert" not in without_data(scores.spec)


def test_chance_is_a_line_where_it_is_known() -> None:
    known = task("nf4", OTHER)
    known = known.model_copy(update={"details": {**known.details, "chance": {"accuracy": 0.25}}})
    _, charts = drawn(known)
    (line,) = [layer for layer in charts[0].spec["layer"] if "data" in layer]
    assert line["data"]["values"] == [{"chance": 0.25}]
    _, charts = drawn(task("nf4", OTHER))
    assert not any("data" in layer for layer in charts[0].spec["layer"])


def test_flips_stand_on_two_sides() -> None:
    _, (_, flips) = drawn(task("fp32", REFERENCE), task(NAME, OTHER), task("int8", REFERENCE))
    found = {(row["cell"], row["flip"]): (row["value"], row["items"]) for row in values(flips)}
    assert found == {
        (NAME, "right → wrong"): (-7, 7),
        (NAME, "wrong → right"): (3, 3),
        ("int8", "right → wrong"): (0, 0),
        ("int8", "wrong → right"): (0, 0),
    }
    assert "alert" not in without_data(flips.spec)


def test_without_flips_or_scores_there_is_no_picture_of_them() -> None:
    _, charts = drawn(task("fp32", REFERENCE), task("nf4", REFERENCE))
    assert [chart.title for chart in charts] == ["Score: accuracy"]
    empty = task("fp32", REFERENCE)
    metric = empty.metrics[-1].model_copy(update={"value": None, "reason": "none"})
    _, charts = drawn(empty.model_copy(update={"metrics": (metric,)}))
    assert charts == []
