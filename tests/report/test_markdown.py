"""The page as a reader gets it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.pages import whole_report as render
from tests.record_factory import (
    PRECISIONS,
    cell_records,
    footprint_record,
    make_failure,
    make_metric,
    make_record,
    quality_record,
    quickstart_records,
)

if TYPE_CHECKING:
    from qbench.core.record import Record


def tables(page: str) -> list[list[list[str]]]:
    """All tables of a page as lists of rows of cells, the rule left out."""
    found, rows = [], []
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([cell.strip() for cell in cells])
        elif rows:
            found.append([rows[0], *rows[2:]])
            rows = []
    return found


def decision_of(page: str) -> list[list[str]]:
    """The decision table: the first whose rows are precisions."""
    return next(table for table in tables(page) if table[0][0] == "precision")


def test_decision_comes_first_then_conditions_then_details() -> None:
    page = render(quickstart_records())
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings == [
        "quickstart: tiny-mistral on Intel Xeon (2 cores)",
        "Predicted against measured",
        "Failed and skipped",
        "Warnings",
        "Conditions",
        "Details",
    ]
    labels = [row[0].removesuffix(" (reference)") for row in decision_of(page)[1:]]
    shown = {"fp4": "FP4 (bitsandbytes)"}
    assert labels == [shown.get(label, label) for label in PRECISIONS]


def test_numbers_have_human_units() -> None:
    records = [
        make_record(label, metrics={"memory.static": size})
        for label, size in (("fp32", 14 * 2**30), ("nf4", 3.5 * 2**30))
    ]
    decision = decision_of(render(records))
    assert decision[0][3] == "static (GiB)"
    assert [row[3] for row in decision[1:]] == ["14.00", "**3.50**"]


def test_perplexities_keep_four_decimals() -> None:
    records = quickstart_records()
    fp32 = next(r.value("perplexity") for r in records if r.item.measurement == "quality")
    # bf16's is lower within noise: see TestBest in test_tables
    assert decision_of(render(records))[1][7] == f"**{fp32:.4f}**"


def test_all_rows_of_a_table_have_as_many_cells_and_are_aligned() -> None:
    page = render(quickstart_records())
    for table in tables(page):
        assert len({len(row) for row in table}) == 1
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        assert len({len(line) for line in block.splitlines()}) == 1


def test_text_of_others_cannot_break_the_page() -> None:
    nasty = "a|b\n# heading <script> *bold* __x__ `code` [l](u) &lt; \\"
    records = [
        footprint_record("fp32"),
        make_failure("nf4", "footprint", "error", nasty, log_tail="```\n# no heading\n```"),
    ]
    page = render(records)
    outside_logs = page.partition("### Log of")[0]
    failed = next(table for table in tables(outside_logs) if table[0][1] == "not measured")
    assert len(failed[1]) == 5
    assert failed[1][4].startswith("a\\|b # heading &lt;script>")
    assert "\n# heading" not in page
    assert "````text\n```\n# no heading\n```\n````" in page


def test_failures_are_shown_with_their_reasons_and_logs() -> None:
    page = render(quickstart_records())
    assert "the machine had 1.2 GiB left" in page
    assert "### Log of int8: all measurements" in page
    assert "| oom " in page


def test_nothing_failed_is_said() -> None:
    assert "## Failed and skipped\n\nNone." in render(cell_records("fp32"))


@pytest.mark.parametrize(
    "records",
    [
        quickstart_records(),
        cell_records("nf4"),
        [make_failure("nf4", "quality", "nan", "not finite")],
        [make_record("nf4", "footprint", {"memory.static": None, "load_time": float("nan")})],
        [make_record("nf4", "tasks", {"accuracy": None}, slug="arc")],
    ],
    ids=["quickstart", "one cell", "only failures", "no values", "unknown measurement"],
)
def test_what_is_missing_is_never_a_number(records: list[Record]) -> None:
    page = render(records)
    without_status = re.sub(r"\| +nan +(?=\|)", "", page)
    assert not re.search(r"\bnan\b|\bNone\b(?!\.)|\binf\b", without_status)
    missing = {metric.name for r in records for metric in r.metrics if metric.value is None}
    if "memory.static" in missing:
        assert decision_of(page)[1][3] == "n/a"
        assert "no static: could not be taken" in page


def test_the_reason_for_no_comparison_is_under_the_table() -> None:
    failed = make_failure("fp32", "quality", "oom", "full", slug="stdlib-heldout-w256-default")
    page = render([failed, quality_record("nf4")])
    assert "- nf4: no change: the reference: oom (full)" in page


def test_no_records() -> None:
    assert "no records yet" in render([])


def test_two_models() -> None:
    records = [footprint_record(p, model=m) for m in ("one", "two") for p in ("fp32", "nf4")]
    page = render(records)
    assert "## quickstart: one on Intel Xeon" in page
    assert "## quickstart: two on Intel Xeon" in page
    assert "#### Bytes by kind" in page


def test_mixed_protocols_are_separated_and_said() -> None:
    old = footprint_record("nf4", protocol="0")
    page = render([footprint_record("fp32"), old])
    assert "1 record of protocol 0 left out" in page
    assert "nf4" not in page


def test_different_conditions_in_one_table_are_said() -> None:
    other = footprint_record("nf4")
    environment = other.environment.model_copy(update={"threads": 1})
    page = render([footprint_record("fp32"), other.model_copy(update={"environment": environment})])
    assert "**Records of one table were taken under different conditions**: threads." in page


def test_the_same_records_give_the_same_page() -> None:
    assert render(quickstart_records()) == render(quickstart_records())


def test_marks_are_explained_only_where_used() -> None:
    plain = [make_record(p, metrics={"memory.static": 5}) for p in ("fp32", "nf4")]
    legend = render(plain).partition("<details>")[0]
    assert "**bold**" not in legend
    assert "†" not in legend
    used = render(quickstart_records()).partition("<details>")[0]
    assert all(mark in used for mark in ("**bold**", "†", "≈"))


def test_a_large_value_without_samples_keeps_its_exact_bytes() -> None:
    record = make_record("nf4", more_metrics=(make_metric("memory.static", 7_241_732_096.0),))
    assert "7,241,732,096" in render([record])
