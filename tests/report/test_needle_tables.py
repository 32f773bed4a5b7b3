"""Tables and heat maps of needles, of records whose shares by depth are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from qbench.compare.flips import Flips, find_flips
from qbench.compare.recommend.axes import quality_axes
from qbench.compare.recommend.limits import tasks_of
from qbench.compare.selection import select
from qbench.core.page import Charts
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from qbench.report.overview_table import overview_table
from qbench.report.pictures import picture_parts
from tests.paired_records import SAMPLING, footprint
from tests.record_factory import make_metric, make_record

if TYPE_CHECKING:
    from qbench.core.page import Chart, Table
    from qbench.core.record import Record

DEPTHS = (0.0, 50.0, 100.0)
NEEDLES = 10


def needles(cell: str, length: int, found: tuple[int, int, int], **params: Any) -> Record:
    """A record in which so many of ten needles are found at each depth."""
    scores = [float(at < count) for count in found for at in range(NEEDLES)]
    nll = [0.1 + 5 * (1 - score) + at / 1000 for at, score in enumerate(scores)]
    ids = [f"d{depth:g}-{at}" for depth in DEPTHS for at in range(NEEDLES)]
    values = {
        "needle.retrieval": sum(scores) / len(scores),
        "needle.exact": sum(scores) / len(scores),
        "needle.loss": sum(nll) / (4 * len(nll)),
    }
    return make_record(
        cell,
        "needle",
        slug="-".join([f"text-l{length}-3x10", *map(str, params.values())]),
        params={"text": {"name": "text"}, "length": length, "needles": NEEDLES, **params},
        more_metrics=tuple(
            make_metric(name, value).model_copy(
                update={"unit": "nat" if name.endswith("loss") else "1"}
                | {"better": "lower" if name.endswith("loss") else "higher"}
            )
            for name, value in values.items()
        ),
        series={
            "item_retrieval": scores,
            "item_exact": scores,
            "item_nll": nll,
            "item_tokens": [4.0] * len(nll),
        },
        details={
            "item_ids": ids,
            "items": len(ids),
            "ids_sha256": "ab" * 32,
            "answers": {"needle.retrieval": [str(score) for score in scores]},
            "by_depth": {
                "depth": list(DEPTHS),
                "retrieval": [count / NEEDLES for count in found],
            },
        },
    )


RECORDS = [
    needles("nf4", 512, (10, 8, 9)),
    needles("nf4", 2048, (9, 2, 8)),
    needles("fp32", 512, (10, 10, 10)),
    needles("fp32", 2048, (10, 9, 10)),
]


def tables(records: list[Record]) -> dict[str, Table]:
    return {table.title: table for table in detail_tables(select(records).tables[0])}


def test_a_row_a_cell_and_length_and_a_column_a_depth_the_reference_first() -> None:
    grid = tables(RECORDS)["Needles found, by length and depth: text, 10 at each"]
    assert [column.title for column in grid.columns] == [
        "length",
        "depth 0",
        "depth 50",
        "depth 100",
    ]
    shown = [(row.label, [figure.value for figure in row.figures]) for row in grid.rows]
    assert shown == [
        ("fp32", [512, 1.0, 1.0, 1.0]),
        ("fp32", [2048, 1.0, 0.9, 1.0]),
        ("nf4", [512, 1.0, 0.8, 0.9]),
        ("nf4", [2048, 0.9, 0.2, 0.8]),
    ]


def test_a_depth_or_a_length_at_which_nothing_is_found_is_shown() -> None:
    records = [
        needles(cell, length, found)
        for cell in ("fp32", "nf4")
        for length, found in ((512, (0, 3, 1)), (2048, (0, 0, 0)))
    ]
    made = tables(records)
    grid = made["Needles found, by length and depth: text, 10 at each"]
    assert [figure.value for figure in grid.column("depth.0")] == [0, 0, 0, 0]
    over = made["Needles found, by tokens of a prompt: text"]
    assert [figure.value for figure in over.column("length.2048")] == [0, 0]


def test_each_length_has_exact_limits_and_flips() -> None:
    table = tables(RECORDS)["Needles: text-l2048-3x10"]
    base, held = table.column("needle.retrieval")
    for figure, right in ((base, 29), (held, 19)):
        limits = stats.binomtest(right, 30).proportion_ci(0.95, "exact")
        assert (figure.value, figure.low, figure.high) == pytest.approx(
            (right / 30, limits.low, limits.high)
        )
    assert [one.value for one in table.column("right_to_wrong")][1] == 10
    assert [one.value for one in table.column("wrong_to_right")][1] == 0
    assert table.column("change")[1].value == pytest.approx(-10 / 30)
    assert table.column("change.loss")[1].value == pytest.approx(10 * 5 / 120)
    assert table.column("flips")[1].value == pytest.approx(10 / 30)
    assert table.column("changed")[1].value == pytest.approx(10 / 30)


def test_of_two_cells_the_needles_are_paired() -> None:
    flips = find_flips([RECORDS[1]], [RECORDS[3]], "needle.retrieval", sampling=SAMPLING)
    assert isinstance(flips, Flips)
    assert (flips.items, flips.lost, flips.gained) == (30, 10, 0)


def charts(records: list[Record]) -> list[Chart]:
    (group,) = [
        part
        for part in picture_parts(select(records).tables[0])
        if isinstance(part, Charts) and part.title == "Needles found, by length and depth"
    ]
    return list(group.charts)


def test_a_heat_map_for_each_cell_the_reference_first() -> None:
    first, second = charts(RECORDS)
    assert [one.title for one in (first, second)] == ["fp32 (reference): text", "nf4: text"]
    tiles = {(one["length"], one["depth"]): one["percent"] for one in second.spec["data"]["values"]}
    assert tiles == {
        ("512", "0 %"): "100",
        ("512", "50 %"): "80",
        ("512", "100 %"): "90",
        ("2,048", "0 %"): "90",
        ("2,048", "50 %"): "20",
        ("2,048", "100 %"): "80",
    }
    assert second.spec["layer"][0]["encoding"]["y"]["sort"] == ["0 %", "50 %", "100 %"]
    assert "77 % of all" in second.description


def test_of_many_lengths_shades_alone_tell() -> None:
    many = [needles("fp32", 100 * at, (10, 9, 10)) for at in range(1, 13)]
    (only,) = charts(many)
    assert [layer["mark"]["type"] for layer in only.spec["layer"]] == ["rect"]
    assert only.spec["layer"][0]["encoding"]["fillOpacity"]["legend"] is not None


def test_grids_of_other_needles_stand_apart() -> None:
    others = [needles("fp32", 512, (3, 3, 3), value="word"), *RECORDS]
    titles = [title for title in tables(others) if title.startswith("Needles found, by length and")]
    assert titles == [
        "Needles found, by length and depth: text, words, 10 at each",
        "Needles found, by length and depth: text, 10 at each",
    ]


def test_lengths_have_a_table_over_them() -> None:
    table = tables(RECORDS)["Needles found, by tokens of a prompt: text"]
    shown = {row.label: [one.value for one in row.figures] for row in table.rows}
    assert shown["fp32"] == pytest.approx([1.0, 29 / 30])
    assert shown["nf4"] == pytest.approx([27 / 30, 19 / 30])


def test_a_budget_names_them_as_it_names_tasks() -> None:
    axes = quality_axes(select(RECORDS).tables[0])
    assert [axis.item for axis in tasks_of("needle", axes)] == ["text-l512-3x10", "text-l2048-3x10"]
    (one,) = tasks_of("text-l2048*", axes)
    assert (one.metric, one.better, one.of_change) == ("needle.retrieval", "higher", True)


def test_on_a_terminal_the_greatest_length_stands_beside_what_cells_cost() -> None:
    records = [*RECORDS, footprint("fp32", 4e6), footprint("nf4", 1e6)]
    told = select(records).tables[0]
    table = overview_table(told, decision_table(told))
    assert table.columns[-1].title == "needles at 2,048"
    assert [row.figures[-1].value for row in table.rows] == pytest.approx([29 / 30, 19 / 30])
