"""From which batch on a format is slower: sentences, tables and pictures, from records alone."""

from __future__ import annotations

import json
import re
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.selection import select
from qbench.core.page import Bullets, Heading
from qbench.measures.kernels.metrics import METRICS
from qbench.measures.loaded import make_metric
from qbench.report.as_json import render
from qbench.report.charts.kernels import kernel_charts
from qbench.report.crossovers import crossover_data, crossover_lines
from qbench.report.details import detail_tables
from qbench.report.kernels import kernel_parts, kernel_tables, ratio_table
from qbench.report.overview import overview_page
from tests.command import call
from tests.pages import whole_report
from tests.record_factory import footprint_record, make_failure, make_record
from tests.report.charts.specs import charts_of, values, without_data
from tests.workplace import keep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

ROWS = (1, 16, 128, 2)
"""As a folder lists them: not in order."""
BF16_S = {1: 0.010, 2: 0.011, 16: 0.012, 128: 0.040}
NAME = "</script>'+alert(1)+'"


def taken(
    cell: str,
    ratios: Mapping[int, float],
    kernels: Mapping[int, str | None] | None = None,
    processes: int = 5,
    **changes: Any,
) -> list[Record]:
    """Records of a cell whose processes differ by a per cent each."""
    made = []
    for rows, ratio in ratios.items():
        kernel = (kernels or {}).get(rows, "fused")
        for repeat in range(processes):
            own = BF16_S[rows] * ratio * (1 + (repeat - processes // 2) / 100)
            fp32 = BF16_S[rows] * 2
            found: dict[str, float] = {
                "time": own,
                "time.bf16": BF16_S[rows],
                "ratio": own / BF16_S[rows],
                "time.fp32": fp32,
                "ratio.fp32": own / fp32,
                "floor": 0.004,
                "floor_share": 0.004 / own,
            }
            size = {
                "size": "64x32",
                "layers": 4,
                "held_bytes": 1024,
                "seconds": {"own": own / 4, "bf16": BF16_S[rows] / 4},
                "kernel": kernel,
                "kernel_reason": None if kernel else "none of them is known",
                "operators": ["aten::mm"] if kernel else [],
            }
            metrics = (make_metric(METRICS, f"kernels.{key}", one) for key, one in found.items())
            made.append(
                make_record(
                    cell,
                    "kernels",
                    slug=f"rows-{rows}",
                    params={"rows": rows},
                    repeat=repeat,
                    details={"sizes": [size]},
                    more_metrics=tuple(metrics),
                    **changes,
                )
            )
    return made


def table_of(*records: Record) -> TableRecords:
    (table,) = select(records).tables
    return table


def four_cells() -> list[Record]:
    later = {128: "dequantize and multiply"}
    return [
        *taken("bf16", {1: 1.0, 16: 1.01, 128: 0.99, 2: 1.0}),
        *taken("nf4", {1: 0.5, 16: 2.0, 128: 3.0, 2: 0.5}, later),
        *taken("int8", {1: 1.5, 16: 2.0, 128: 3.0, 2: 1.2}),
        *taken("nf4-dq", {1: 0.5, 16: 0.6, 128: 0.9, 2: 0.5}, {1: None}),
    ]


def test_a_sentence_for_each_cell_answers_the_question() -> None:
    bf16, int8, nf4, dq = crossover_lines(table_of(*four_cells()))
    assert bf16.startswith("bf16 is what the others are held against; its own ratio, 0.99 to 1.01,")
    # ln(2)/ln(4) of the way from 2 to 16 on a logarithmic axis: half of it.
    assert nf4 == (
        "nf4 is slower than bf16 from 16 rows on (not at 2; equal at about 5.7, interpolated);"
        " slower than fp32 from 128 rows on (not at 16; equal at about 16, interpolated). Kernel:"
        " fused (1 to 16), dequantize and multiply (128)."
    )
    assert int8.startswith("int8 is slower than bf16 at every number of rows, 1 to 128; ")
    assert dq.startswith("nf4-dq is not slower than bf16 at any number of rows, 1 to 128; ")
    assert "n/a (1), fused (2 to 128)" in dq


def test_programs_are_told_the_same() -> None:
    table = table_of(*four_cells())
    found = {(one["cell"], one["beside"]): one for one in crossover_data(table)}
    assert len(found) == 8
    nf4, int8 = found["nf4", "bf16"], found["int8", "bf16"]
    assert (nf4["kind"], nf4["rows"], nf4["before"], nf4["reason"]) == ("from", 16, 2, None)
    assert (int8["kind"], int8["rows"]) == ("always", None)
    assert int8["reason"] == "slower at every number of rows that was measured (1 to 128)"
    document = json.loads(render(four_cells()))
    assert document["decision_tables"][0]["crossovers"] == json.loads(
        json.dumps(crossover_data(table))
    )


def test_what_is_within_chance_is_said() -> None:
    """A process differs from the next by one per cent, and so may the ratio be 1."""
    (line,) = crossover_lines(table_of(*taken("nf4", {1: 0.5, 16: 1.003, 128: 2.0})))
    assert ", though within chance at 16 rows; " in line
    (sure,) = crossover_lines(table_of(*taken("nf4", {1: 0.5, 16: 1.1, 128: 2.0})))
    assert "chance" not in sure


def test_slower_at_few_rows_alone_is_said_so() -> None:
    (line,) = crossover_lines(table_of(*taken("nf4", {1: 3.0, 2: 2.0, 16: 0.9, 128: 0.5})))
    assert line.startswith("nf4 is slower than bf16 up to 2 rows, not at more; ")
    (mixed,) = crossover_lines(table_of(*taken("nf4", {1: 0.9, 2: 2.0, 16: 0.9, 128: 0.5})))
    assert mixed.startswith("nf4 is slower than bf16 at 2 rows, not at more; ")
    (back,) = crossover_lines(table_of(*taken("nf4", {1: 2.0, 2: 0.9, 16: 0.9, 128: 1.5})))
    assert ", and at 1 row too; " in back


def test_the_ratios_stand_in_one_table_by_rows() -> None:
    table = ratio_table(table_of(*four_cells()))
    assert [column.title for column in table.columns[:4]] == ["1", "2", "16", "128"]
    rows = {row.label: row for row in table.rows}
    assert [one.value for one in rows["nf4"].figures[:4]] == pytest.approx([0.5, 0.5, 2.0, 3.0])
    assert [rows[name].figures[4].word for name in ("bf16", "nf4", "int8", "nf4-dq")] == [
        "-",
        "16",
        "all",
        "none",
    ]
    assert rows["int8"].figures[4].reason == (
        "slower at every number of rows that was measured (1 to 128)"
    )
    figure = rows["nf4"].figures[2]
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < 2 < figure.high


def test_details_have_times_floors_kernels_and_operators_of_each_cell() -> None:
    tables = kernel_tables(table_of(*four_cells()))
    titles = [table.title for table in tables]
    assert titles == [
        *(f"Linear layers by rows: {name}" for name in ("bf16", "int8", "nf4", "nf4-dq")),
        "Linear layers by size",
    ]
    nf4, sizes = tables[2], tables[-1]
    assert [row.label for row in nf4.rows] == ["1", "2", "16", "128"]
    times = [figure.value for figure in nf4.column("kernels.time")]
    assert times == pytest.approx([0.005, 0.0055, 0.024, 0.120])
    assert [figure.value for figure in nf4.column("kernels.floor")] == [0.004] * 4
    lowest = nf4.column("kernels.ratio:lowest")[2].value
    assert lowest == pytest.approx(2 * 0.98)
    words = [figure.word for figure in nf4.column("kernels.kernel")]
    assert words == ["fused", "fused", "fused", "dequantize and multiply"]
    unknown = tables[3].column("kernels.kernel")[0]
    assert (unknown.word, unknown.reason) == ("n/a", "none of them is known")
    assert {row.label: row.figures[2].word for row in sizes.rows} == {
        "bf16 64x32": "-",
        "int8 64x32": "all",
        "nf4 64x32": "16",
        "nf4-dq 64x32": "none",
    }


def test_of_few_processes_there_is_no_interval_but_a_reason() -> None:
    (table, _) = kernel_tables(table_of(*taken("nf4", {1: 0.5}, processes=2)))
    figure = table.column("kernels.ratio")[0]
    assert figure.low is None
    assert "too few processes" in (figure.reason or "")
    assert table.column("kernels.ratio:highest")[0].value == pytest.approx(0.5)


def test_times_of_an_emulated_format_are_marked() -> None:
    """Its ratio too, which is no time itself."""
    records = [*taken("bf16", {1: 1.0}), *taken("int4-g32", {1: 4.0})]
    table = ratio_table(table_of(*records))
    marks = {row.label: row.figures[0].unlike_served for row in table.rows}
    assert marks["bf16"] is None
    assert "dequantizes all weights" in (marks["int4-g32"] or "")
    assert re.search(r"4\.00 ≠", whole_report(records))


def test_report_and_terminal_have_it_and_nothing_where_nobody_asked() -> None:
    records = four_cells()
    page = whole_report(records)
    assert "### From which batch on a format is slower than bf16" in page
    assert "nf4 is slower than bf16 from 16 rows on" in page
    assert "Other measurements" not in page
    overview = overview_page(records)
    assert any(
        isinstance(part, Bullets) and "nf4 is slower" in str(part.items) for part in overview.parts
    )
    without = table_of(footprint_record("bf16"), footprint_record("nf4"))
    assert kernel_parts(without) == []
    assert kernel_charts(without) == []
    assert not any("Linear layers" in table.title for table in detail_tables(without))
    other = overview_page([footprint_record("bf16")])
    assert not any(isinstance(one, Heading) and "batch" in one.text for one in other.parts)


def test_pictures_hold_the_numbers_of_the_tables() -> None:
    ratios, times = charts_of(kernel_charts(table_of(*four_cells())))
    assert {(row["cell"], row["rows"]): row["value"] for row in values(ratios)} == {
        (cell, rows): pytest.approx(value)
        for cell, found in {
            "bf16": {1: 1.0, 2: 1.0, 16: 1.01, 128: 0.99},
            "nf4": {1: 0.5, 2: 0.5, 16: 2.0, 128: 3.0},
            "int8": {1: 1.5, 2: 1.2, 16: 2.0, 128: 3.0},
            "nf4-dq": {1: 0.5, 2: 0.5, 16: 0.6, 128: 0.9},
        }.items()
        for rows, value in found.items()
    }
    marks = ratios.spec["layer"][-1]["data"]["values"]
    assert [(one["cell"], one["value"]) for one in marks] == [("nf4", 1)]
    assert marks[0]["rows"] == pytest.approx((2 * 16) ** 0.5, rel=1e-4)
    own = {(row["cell"], row["rows"]): row["value"] for row in values(times)}
    assert own["nf4", 16] == pytest.approx(24)  # ms
    beside, _, floors = times.spec["layer"]
    assert {one["rows"]: one["value"] for one in beside["data"]["values"]} == {
        rows: pytest.approx(1000 * seconds) for rows, seconds in BF16_S.items()
    }
    assert {one["value"] for one in floors["data"]["values"]} == {4.0}
    assert "alert" not in without_data(next(charts_of(kernel_charts(table_of(*named())))).spec)


def named() -> list[Record]:
    return taken(NAME, {1: 0.5, 16: 2.0})


def test_records_that_are_strange_are_shown_as_far_as_they_go() -> None:
    odd: list[Any] = [float("inf"), "many", -3, 2.5, None, True]
    records = [
        make_record("nf4", "kernels", slug=f"rows-{at}", params={"rows": rows})
        for at, rows in enumerate(odd)
    ]
    details: list[Any] = [{"sizes": "none"}, {"sizes": [3, {"seconds": [1], "operators": 5}]}]
    records += [
        make_record("int8", "kernels", slug=f"rows-{2**at}", params={"rows": 2**at}, details=one)
        for at, one in enumerate(details)
    ]
    failed = make_failure("fp32", "kernels", "oom", "no room", slug="rows-1", params={"rows": 1})
    page = whole_report([*records, failed])
    assert "no room" in page
    assert "slower than bf16 from" not in page.replace("Linear layers by size", "")[:2000]


@pytest.mark.parametrize(("faster", "verdict"), [(0.5, "better"), (2.0, "worse")])
def test_times_are_compared_between_two_runs(tmp_path: Path, faster: float, verdict: str) -> None:
    for name, factor in (("new", faster), ("old", 1.0)):
        for record in taken("nf4", {1: factor, 16: factor}):
            keep(tmp_path / name, record)
    finished = call(tmp_path, "compare", "new", "old", "--format", "markdown")
    lines = [line for line in finished.output.splitlines() if "kernels.time" in line]
    assert any(verdict in line for line in lines), finished.output


def test_the_median_of_bf16_beside_the_cells_is_drawn() -> None:
    one, two = taken("nf4", {1: 0.5}, processes=1), taken("int8", {1: 0.5}, processes=1)
    beside = 3 * BF16_S[1]
    (changed,) = [
        record.model_copy(
            update={
                "metrics": tuple(
                    metric.model_copy(update={"value": beside})
                    if metric.name == "kernels.time.bf16"
                    else metric
                    for metric in record.metrics
                )
            }
        )
        for record in two
    ]
    _, times = charts_of(kernel_charts(table_of(*one, changed)))
    (point,) = times.spec["layer"][0]["data"]["values"]
    assert point["value"] == pytest.approx(1000 * median([beside, BF16_S[1]]))
