"""Servers under load in reports: tables, pictures, marks, differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.selection import select
from qbench.compare.speed import why_not_served
from qbench.core.record import Metric
from qbench.measures.serving.figures import METRICS
from qbench.report.charts.serving import serving_charts
from qbench.report.details import detail_tables
from qbench.report.differences import differences_of
from qbench.report.markdown import render
from qbench.report.overview import overview_page
from qbench.report.report_page import report_page
from qbench.report.serving import serving_tables
from tests.record_factory import make_failure, make_record

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Table
    from qbench.core.record import Record

ENGINE = {"engine": "transformers"}
VLLM = {"command": "vllm serve {model} --port {port}"}
DEFINED = {one.name.removeprefix("serving."): one for one in METRICS}


def served(
    precision: str,
    server: dict[str, Any] = ENGINE,
    *,
    itl: float = 0.01,
    rate: float = 50.0,
    repeat: int = 0,
    rate_a_second: float | None = None,
    details: dict[str, Any] | None = None,
    **load: Any,
) -> Record:
    name = "transformers" if server is ENGINE else "vllm"
    if rate_a_second is not None:
        load = {"rate": rate_a_second, "arrival": "poisson"}
    load = load or {"concurrency": 1}
    at = "-".join(f"{key[0]}{value}" for key, value in load.items())
    values = {"itl": itl, "ttft": 10 * itl, "output_throughput": rate, "errors": 0.0}
    return make_record(
        precision,
        "serving",
        slug=f"{name}-{at}-p8-n4",
        params={
            **load,
            "prompt_tokens": 8,
            "output_tokens": 4,
            "requests": 9,
            "warmup": 1,
            "endpoint": "completions",
            "seed": 0,
            "server": server,
            "timeout": 60.0,
        },
        repeat=repeat,
        more_metrics=tuple(
            Metric(
                name=DEFINED[one].name,
                unit=DEFINED[one].unit,
                better=DEFINED[one].better,
                value=value,
                varies_by="process",
            )
            for one, value in values.items()
        ),
        details={
            "server": {"version": f"{name} 1"},
            "requests": {"window": {"successful": 8}},
            "tokens": {"output_tokens": {"median": 4}},
            **(details or {}),
        },
    )


def table_of(*records: Record) -> TableRecords:
    return select(records).tables[0]


def figure(table: Table, row: int, key: str) -> Any:
    (at,) = [index for index, column in enumerate(table.columns) if column.key == key]
    found = table.rows[row].figures[at]
    return found.word if found.value is None else found.value


def test_a_load_has_a_table_with_a_row_for_each_cell_and_server() -> None:
    table = table_of(
        served("nf4", concurrency=16),
        served("fp32", concurrency=16),
        served("fp32", VLLM, concurrency=16, itl=0.002),
        served("fp32", concurrency=2),
        served("nf4", rate_a_second=2.5),
        served("nf4"),
    )
    titles = [one.title for one in serving_tables(table)]
    assert titles == [
        f"Serving under load: {load}, 8 prompt tokens, 4 new tokens"
        for load in ("1 at once", "2 at once", "16 at once", "2.5 a second")
    ]
    of_16 = serving_tables(table)[2]
    servers = [figure(of_16, at, "serving.server") for at in range(len(of_16.rows))]
    assert [*zip([row.label for row in of_16.rows], servers, strict=True)] == [
        ("fp32", "transformers"),
        ("fp32", "vllm"),
        ("nf4", "transformers"),
    ]
    assert figure(of_16, 1, "serving.itl") == 0.002
    assert figure(of_16, 1, "serving.versions") == "vllm 1"
    assert figure(of_16, 0, "serving.answered") == 8


def test_repeats_are_one_row_of_medians() -> None:
    records = [served("fp32", itl=value, repeat=at) for at, value in enumerate((0.01, 0.03, 0.02))]
    (table,) = serving_tables(table_of(*records))
    assert len(table.rows) == 1
    assert figure(table, 0, "serving.itl") == 0.02
    assert figure(table, 0, "serving.answered") == 24


def test_a_failed_load_says_so_and_no_zero() -> None:
    failed = served("nf4")
    failure = make_failure("nf4", "serving", "crash", "the server ended", slug=failed.item.slug)
    failure = failure.model_copy(update={"item": failed.item})
    (table,) = serving_tables(table_of(served("fp32"), failure))
    assert figure(table, 1, "serving.itl") == "crash"
    assert figure(table, 1, "serving.output_throughput") == "crash"
    assert figure(table, 1, "serving.answered") == "-"


def test_details_and_terminal_have_it_and_tell_of_no_errors() -> None:
    records = (served("fp32"), served("nf4"))
    (table,) = [one for one in detail_tables(table_of(*records)) if one.title.startswith("Serving")]
    assert "serving.errors" in [column.key for column in table.columns]
    shown = [one for one in overview_page(records).parts if hasattr(one, "columns")]
    assert any("serving.itl" in [c.key for c in one.columns] for one in shown)


def test_a_report_has_it_before_its_details_and_tells_a_reason_once() -> None:
    page = render(report_page([served("fp32"), served("nf4")]))
    first, _, details = page.partition("\n## Details")
    heading = "### Serving under load: 1 at once, 8 prompt tokens, 4 new tokens"
    assert heading in first
    assert heading in details
    [reason] = [line for line in first.splitlines() if "too few processes" in line]
    for metric in ("serving.ttft", "serving.itl", "serving.output_throughput"):
        assert f"{metric}, " in reason


def test_the_picture_joins_the_loads_of_a_cell_and_server() -> None:
    records = [
        served(precision, concurrency=streams, itl=itl * streams, rate=40.0 * streams)
        for precision, itl in (("fp32", 0.01), ("nf4", 0.02))
        for streams in (8, 1)
    ]
    between, first = serving_charts(table_of(*records))
    assert between.title == "Time between tokens against throughput, 8 prompt tokens, 4 new tokens"
    rows = between.spec["data"]["values"]
    assert [(row["cell"], row["load"], row["waited"], row["rate"]) for row in rows] == [
        ("fp32", "1", 10.0, 40.0),
        ("fp32", "8", 80.0, 320.0),
        ("nf4", "1", 20.0, 40.0),
        ("nf4", "8", 160.0, 320.0),
    ]
    assert "strokeDash" not in between.spec["encoding"]
    assert first.spec["data"]["values"][0]["waited"] == 100.0


def test_lines_of_several_servers_are_told_apart() -> None:
    records = [
        served("fp32", server, concurrency=streams)
        for server in (ENGINE, VLLM)
        for streams in (1, 2)
    ]
    chart = serving_charts(table_of(*records))[0]
    assert chart.spec["encoding"]["strokeDash"]["field"] == "server"
    assert {row["server"] for row in chart.spec["data"]["values"]} == {"transformers", "vllm"}


def test_one_load_makes_no_line() -> None:
    assert serving_charts(table_of(served("fp32"), served("nf4"))) == []


@pytest.mark.parametrize(
    ("server", "loaded", "marked"),
    [
        (ENGINE, {"loaded": {"unlike_served": "it is emulated here"}}, True),
        (ENGINE, {"loaded": {"unlike_served": None}}, False),
        (VLLM, {}, False),  # the engine's own kernels
    ],
)
def test_speeds_of_emulated_formats_are_marked(
    server: dict[str, Any], loaded: dict[str, Any], *, marked: bool
) -> None:
    record = served("mxfp4", server, details=loaded)
    for metric in ("serving.itl", "serving.output_throughput", "serving.ttft"):
        assert (why_not_served([record], metric) is not None) is marked
    assert why_not_served([record], "serving.errors") is None


def test_differences_need_several_servers_and_are_then_told() -> None:
    few = table_of(served("fp32"), served("nf4", itl=0.02))
    found = differences_of(few)
    assert found is not None
    lines = [one for one in found.lines if one.item.measurement == "serving"]
    assert {one.metric.name for one in lines} >= {"serving.ttft", "serving.itl"}
    many = table_of(
        *(
            served(precision, itl=itl * (1 + at / 1000), repeat=at)
            for precision, itl in (("fp32", 0.01), ("nf4", 0.02))
            for at in range(6)
        )
    )
    compared = differences_of(many)
    assert compared is not None
    verdicts = {one.line.metric.name: one.verdict for one in compared.found if one.cell == "nf4"}
    assert verdicts["serving.itl"] == "worse"
    assert verdicts["serving.output_throughput"] not in {"better", "worse"}
