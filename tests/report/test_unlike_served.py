"""Times of formats that are emulated are marked wherever they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from qbench.compare.speed import marked_lines, why_not_served
from qbench.core.packages import ALWAYS_NEEDED
from qbench.core.spec import PrecisionRef
from qbench.precisions import precisions, unlike_served
from qbench.report.html.render import render as as_html
from qbench.report.listed_entry import entry_page
from qbench.report.listing import listing_page
from qbench.report.markdown import render as as_markdown
from qbench.report.overview import overview_page
from qbench.report.recommendation import recommendation_page
from qbench.report.recommendation_data import recommendation_data
from qbench.report.report_page import report_page
from qbench.report.terminal import as_text
from tests.record_factory import cell_records, make_environment

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

EMULATED = PrecisionRef(label="int4-g32", name="int4-g32", options={})
REASON = unlike_served(EMULATED, "cpu") or "none was given"
MEANING = "not the speed, or the peak memory, that the format has where it is served"


def held(record: Record, **loaded: Any) -> Record:
    """The record as one of int4-g32, with what it tells of the loaded model."""
    cell = record.cell.model_copy(update={"precision": EMULATED})
    details = {**record.details, "loaded": loaded} if loaded else record.details
    return record.model_copy(update={"cell": cell, "details": details, "warnings": ()})


def records_of(**loaded: Any) -> list[Record]:
    """bf16, and nf4's records (of the shortest times there are) as those of int4-g32."""
    emulated = [held(record, **loaded) for record in cell_records("nf4")]
    return [*cell_records("fp32"), *cell_records("bf16"), *emulated]


def line_of(text: str, label: str, table: str = "") -> str:
    """The row of that label, behind the heading of a table where one is named."""
    lines = text[text.index(table) :].splitlines()
    return next(line for line in lines if line.startswith((label, f"| {label} ")))


def test_the_report_marks_the_times_alone_and_says_why_once_a_table() -> None:
    text = as_markdown(report_page(records_of()))
    row = line_of(text, EMULATED.label, "| precision ")
    assert row.count("≠") == 2  # prefill and decode, not bytes and not quality
    assert f"- ≠: {MEANING}; why:\n- ≠ {EMULATED.label}: {REASON}\n" in text
    before, _, details = text.partition("## Details")
    assert details.count(REASON) == 1  # for all its tables, and not in each row of what was loaded
    assert MEANING in before
    assert "≠" not in line_of(text, "bf16", "| precision ")


def test_what_the_mark_means_is_said_once_whatever_the_reasons() -> None:
    labels = {"codes are dequantized": ["fp8", "hqq4"], "a cache is": ["nf4--kv-int4"]}
    assert marked_lines(labels) == [
        f"≠: {MEANING}; why:",
        "≠ fp8, hqq4: codes are dequantized",
        "≠ nf4--kv-int4: a cache is",
    ]
    assert marked_lines({}) == []


def test_of_measured_memory_a_peak_alone_is_marked() -> None:
    wider = {"code_bits_nominal": 4, "code_bits_stored": 8}
    record = next(one for one in records_of(**wider)[::-1] if one.item.measurement == "memory")
    cache = record.metrics[0].model_copy(update={"name": "memory.kv_cache", "unit": "B"})
    record = record.model_copy(update={"metrics": (*record.metrics, cache)})
    assert why_not_served([record], "memory.peak")
    assert why_not_served([record], "memory.kv_cache") is None


def test_such_a_time_is_no_best_and_not_the_lowest() -> None:
    text = as_markdown(report_page(records_of()))
    times = [
        cell for cell in line_of(text, EMULATED.label, "| precision ").split("|") if "≠" in cell
    ]
    assert not any("**" in cell for cell in times)
    assert "Lowest decode time: bf16" in text
    assert f"({EMULATED.label} left out: not as served)" in text


def test_the_terminal_and_the_html_page_mark_them_too() -> None:
    shown = as_text(overview_page(records_of()))
    assert line_of(shown, EMULATED.label).count("≠") == 2
    assert f"≠: {MEANING}; the report says why" in " ".join(shown.split())
    assert REASON not in " ".join(shown.split())
    page = as_html(report_page(records_of()))
    assert "≠ not as served" in page
    assert REASON in page


@pytest.mark.parametrize("minimize", ["decode", "bytes"])
def test_a_choice_by_such_a_time_is_warned_of(minimize: str) -> None:
    (table,) = select(records_of()).tables
    found = recommend(choices(table, Budget(minimize=minimize)))
    assert found.best is not None
    assert found.best.cell.label == EMULATED.label
    text = as_markdown(recommendation_page([(table, found)]))
    assert (f"Chosen by decode, which is {MEANING} (≠): {REASON}." in text) == (
        minimize == "decode"
    )
    data = recommendation_data(table, found)
    figures = {cell["cell"]: cell["figures"] for cell in data["cells"]}
    assert figures[EMULATED.label]["decode"]["unlike_served"] == REASON
    assert figures[EMULATED.label]["bytes"]["unlike_served"] is None
    assert figures["bf16"]["decode"]["unlike_served"] is None


def test_a_record_that_says_it_itself_is_believed() -> None:
    assert "≠" not in as_markdown(report_page(records_of(unlike_served=None)))
    told = as_markdown(report_page(records_of(unlike_served="emulated: by another version")))
    assert f"{EMULATED.label}: emulated: by another version" in told
    assert REASON not in told


def test_the_list_says_where_speed_is_real() -> None:
    needed = {package for one in precisions().values() for package in one.needs}
    there = dict.fromkeys({*ALWAYS_NEEDED, *needed}, "1.0")
    page = listing_page(make_environment(versions=there), ())
    text = as_markdown(page)
    names = {name for name, one in precisions().items() if one.unlike_served(one.options(), "cpu")}
    assert {"int4-g32", "fp8"} <= names
    assert not names & {"bf16", "int8", "nf4", "w8a8"}
    for name in precisions():
        row = line_of(text, name)
        assert ("≠" in row) == (name in names)
    listed = {one["name"]: one["unlike_served"] for one in page.data["precisions"]}
    assert {name for name, reason in listed.items() if reason} == names
    one = entry_page(EMULATED.label, make_environment())
    assert f"≠, {MEANING}: {REASON}." in as_markdown(one)
    assert one.data["unlike_served"] == REASON


def test_the_plan_and_the_explanation_say_it(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        "models: bundled:tiny-mistral\nprecisions: [bf16, nf4, int4-g32]\nmeasure: [latency]\n",
    )
    planned = " ".join(workplace.call_here("plan", "suite.yaml").output.split())
    assert f"reports will mark times by ≠: {MEANING}; why: ≠ int4-g32: {REASON}" in planned
    assert planned.count(MEANING) == 1
    workplace.write(
        "suite.yaml",
        "models: bundled:tiny-mistral\nprecisions: [bf16, int4-g32]\nmeasure: [footprint]\n",
    )
    assert "≠" not in workplace.call_here("plan", "suite.yaml").output
    explained = " ".join(workplace.call_here("explain", "int4-g32").output.split())
    assert f"On a CPU and CUDA: {REASON}" in explained
    assert "Where its speed is real" not in workplace.call_here("explain", "nf4").output
