"""How the forward runs, in reports: each way beside the eager one of the same cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from qbench.compare.items import describe_point, first_point
from qbench.compare.selection import select
from qbench.report.charts.forward import forward_charts
from qbench.report.forward import forward_parts, forward_tables
from tests.pages import short_report, whole_report
from tests.record_factory import latency_record

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Charts, Figure
    from qbench.core.record import Record

SIZE = {"batch": 1, "prompt_tokens": 128, "new_tokens": 32}
SPEED = {"static": 1.1, "compile": 0.4}
REPEATS = 5


def ways(precision: str, repeats: int = REPEATS) -> list[Record]:
    made = [latency_record(precision, repeat) for repeat in range(repeats)]
    for forward in SPEED:
        made += [way(precision, forward, repeat) for repeat in range(repeats)]
    return made


def way(precision: str, forward: str, repeat: int, **changes: Any) -> Record:
    eager = latency_record(precision, repeat)
    record = latency_record(
        precision,
        repeat,
        slug=f"b1-p128-n32-{forward}",
        params={**SIZE, "forward": forward},
        details={
            "attention_ran": ["sdpa: math"],
            "as_eager": {"tokens": 32, "same_tokens": 32, "logits_apart": 0.0},
            "graphs": 2,
            "graph_breaks": 1,
        },
        **changes,
    )
    factor = SPEED[forward] * (1 + 0.01 * repeat)
    metrics = tuple(
        one.model_copy(update={"value": factor * (one.value or 0)}) for one in eager.metrics
    )
    return record.model_copy(update={"metrics": metrics})


def table_of(records: list[Record]) -> TableRecords:
    (table,) = select(records).tables
    return table


def row(records: list[Record], precision: str, forward: str) -> dict[str, Figure]:
    (table,) = forward_tables(table_of(records))
    (found,) = [
        one for one in table.rows if one.label == precision and one.figures[0].word == forward
    ]
    return dict(zip((column.key for column in table.columns), found.figures, strict=True))


def test_a_ratio_is_of_the_eager_forward_of_the_same_cell_with_its_interval() -> None:
    records = [*ways("fp32"), *ways("nf4")]
    mine = [np.log(way("nf4", "compile", at).value("latency.decode")) for at in range(REPEATS)]
    eager = [np.log(latency_record("nf4", at).value("latency.decode")) for at in range(REPEATS)]
    apart = stats.ttest_ind(mine, eager, equal_var=False)
    ends = apart.confidence_interval(0.95)
    figure = row(records, "nf4", "compiled")["latency.decode.to_eager"]
    assert figure.value == pytest.approx(math.exp(np.mean(mine) - np.mean(eager)))
    assert figure.low == pytest.approx(math.exp(ends.low))
    assert figure.high == pytest.approx(math.exp(ends.high))
    assert row(records, "nf4", "eager")["latency.decode.to_eager"].value == 1
    told = row(records, "fp32", "static cache")
    assert told["latency.same_tokens"].word == "32 of 32"
    assert told["latency.graphs"].word == "2, 1 break"
    assert told["latency.attention_ran"].word == "sdpa: math"


def test_one_process_has_a_ratio_and_no_interval() -> None:
    figure = row(ways("nf4", repeats=1), "nf4", "compiled")["latency.decode.to_eager"]
    assert figure.value == pytest.approx(SPEED["compile"])
    assert figure.low is None
    assert "too few processes" in str(figure.reason)


def test_without_an_eager_forward_there_is_no_ratio() -> None:
    records = [one for one in ways("nf4") if "forward" in one.item.params]
    figure = row(records, "nf4", "compiled")["latency.decode.to_eager"]
    assert figure.value is None
    assert "add `eager`" in str(figure.reason)
    assert forward_charts(table_of(records)) == []


def test_main_tables_keep_the_eager_forward() -> None:
    cells = table_of(list(reversed(ways("nf4")))).cells
    point = first_point(cells, "latency")
    assert point is not None
    assert point.item.slug == "b1-p128-n32"
    size = "batch 1, 128 prompt tokens, 32 new tokens"
    assert describe_point(point) == size
    assert describe_point(way("nf4", "compile", 0)) == f"{size}, compiled"
    kernel = latency_record("nf4", params={**SIZE, "attention": "eager"})
    assert describe_point(kernel) == f"{size}, attention eager"
    chosen = {**SIZE, "forward": "compile", "compile_mode": "max-autotune", "attention": "sdpa"}
    assert describe_point(latency_record("nf4", params=chosen)) == (
        f"{size}, compiled (max-autotune), attention sdpa"
    )


def test_pages_have_it_and_nothing_where_there_is_one_way() -> None:
    plain = [latency_record("fp32"), latency_record("nf4")]
    assert forward_parts(table_of(plain)) == []
    assert "How the forward runs" not in whole_report(plain) + short_report(plain, 200)
    records = [*ways("fp32"), *ways("nf4")]
    page = whole_report(records)
    assert "### How the forward runs" in page
    assert "static cache" in page
    assert "static cache" in short_report(records, 200)


def test_the_picture_has_a_point_for_each_way_and_step() -> None:
    (group,) = forward_charts(table_of([*ways("fp32"), *ways("nf4")]))
    charts: Charts = group  # type: ignore[assignment]
    (chart,) = charts.charts
    rows = chart.spec["data"]["values"]
    assert len(rows) == 2 * 2 * 2
    compiled = [one for one in rows if one["way"] == "compiled" and one["step"] == "decode"]
    assert [one["cell"] for one in compiled] == ["fp32", "nf4"]
    for one in compiled:
        assert one["low"] < one["value"] < one["high"] < 1


def test_a_terminal_says_how_its_times_were_taken() -> None:
    """Where nothing was timed in another way, no table of ways says it."""
    compiled = [way("fp32", "compile", repeat) for repeat in range(REPEATS)]
    assert "batch 1, compiled" in short_report(compiled, 100)
    eager = [latency_record("fp32", one) for one in range(REPEATS)]
    assert "compiled" not in short_report(eager, 100)
