"""The report in terminals of several widths."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from qbench.cli.main import app
from qbench.compare.selection import select
from qbench.core.store import read_folder
from qbench.report.decision import decision_table
from qbench.report.finetune.results import results_of
from qbench.report.overview import overview_page
from tests.pages import on_terminal
from tests.pages import short_report as shown
from tests.record_factory import (
    PRECISIONS,
    footprint_record,
    latency_record,
    make_failure,
    make_record,
    quality_record,
    quickstart_records,
)

if TYPE_CHECKING:
    from qbench.core.page import Page
    from qbench.core.record import Record

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
SUITES = sorted(folder.name for folder in PUBLISHED.iterdir())
RULE = "─"
METRICS = {"memory.static": 1e6, "bits_per_weight.linear": 4.5}


@cache
def published(suite: str) -> tuple[Record, ...]:
    records, unreadable = read_folder(PUBLISHED / suite)
    assert not unreadable
    device = records[0].environment.device_kind
    return tuple(record for record in records if record.environment.device_kind == device)


@cache
def page_of(suite: str) -> Page:
    """Its overview, which each width shows."""
    return overview_page(published(suite))


def lines_of(text: str, label: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.split()[:1] == [label]]


def tables_in(text: str) -> list[list[str]]:
    """The lines of each table, its heading's too."""
    blocks = re.split(r"\n\s*\n", text)
    return [block.splitlines() for block in blocks if RULE * 10 in block]


def rows_in(lines: list[str]) -> list[str]:
    at = next(index for index, line in enumerate(lines) if set(line.strip()) == {RULE})
    return lines[at + 1 :]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("width", [40, 80, 120])
def test_published_suites_fit_with_each_table_in_one_piece(suite: str, width: int) -> None:
    records = published(suite)
    text = on_terminal(page_of(suite), width)
    assert max(map(len, text.splitlines())) <= width
    (table,) = select(records).tables
    pieces = tables_in(text)
    assert len(pieces) == bool(table.cells) + bool(table.tuned)
    for lines in pieces:
        assert sum(set(line.strip()) == {RULE} for line in lines) == 1
    if width >= 80:
        found = [line.split()[0] for line in rows_in(pieces[0])][: len(table.cells)]
        assert found == [cell.label for cell in table.cells]


def test_seven_precisions_have_all_that_is_decided_by_in_80_columns() -> None:
    records = published("full")
    (table,) = select(records).tables
    assert len(table.cells) == 7
    lines = tables_in(shown(records, 80))[0]
    head = " ".join(lines[: next(i for i, line in enumerate(lines) if RULE in line)])
    for word in ("linear", "static", "peak", "prefill", "token", "change", "KL", "MiB", "ms", "%"):
        assert word in head.split(), word
    whole = decision_table(table).table
    change = whole.column(f"change:{decision_table(table).texts[0]}")
    for row, figure in zip(rows_in(lines), change, strict=False):
        if figure.value is None or figure.low is None or figure.high is None:
            continue
        half = max(figure.high - figure.value, figure.value - figure.low)
        spread = f"±{100 * half:.2f}" if half > 0.00005 else ""
        assert f"{100 * figure.value:+.2f}{spread}" in row


def test_arms_stand_in_one_table_with_their_seeds_together() -> None:
    records = published("finetune")
    (table,) = select(records).tables
    results = results_of(table)
    assert len(table.tuned) > 5 * len(results.arms)
    rows = [line.split() for line in rows_in(tables_in(shown(records, 80))[1])]
    assert [row[0] for row in rows] == [one.arm.name for one in results.arms]
    for row, one in zip(rows, results.arms, strict=True):
        assert one.gain.value is not None
        assert row[4:6] == [f"{one.gain.value:+.3f}", one.gain.verdict]
        assert row[6:] == (
            ["ref"] if one.against is None else [f"{one.against.value:+.3f}", one.against.verdict]
        )


def test_what_finds_no_room_is_named_and_the_rest_stays_in_one_piece() -> None:
    text = shown(quickstart_records(), 40)
    (lines,) = tables_in(text)
    assert "static" in " ".join(lines)
    assert "change" in " ".join(lines)
    assert "no room for: linear bits" in text
    assert "no room for" not in shown(quickstart_records(), 200)


def test_a_label_longer_than_the_terminal_is_wrapped_and_not_cut() -> None:
    name = "int4-g32-with-a-name-that-nobody-can-read-in-one-go"
    text = shown([footprint_record("fp32"), make_record(name, "footprint", METRICS)], 40)
    assert max(map(len, text.splitlines())) <= 40
    (lines,) = tables_in(text)
    assert name in "".join(line.split("  ")[0].strip() for line in lines)


def test_a_measurement_that_nobody_took_has_no_column() -> None:
    text = shown([footprint_record(p) for p in ("fp32", "nf4")], 80)
    (lines,) = tables_in(text)
    assert " ".join(lines[:2]).split() == ["linear", "static", "precision", "bits", "MiB"]


def test_without_any_number_there_is_no_table_of_names_alone() -> None:
    text = shown([make_record(p, "invented", {"new": 1.0}) for p in ("fp32", "nf4")], 80)
    assert RULE not in text
    assert "precision" not in text


def test_tasks_stand_where_there_is_no_text() -> None:
    records = [
        make_record(p, "tasks", {"tasks.arc.acc": score}, slug="arc")
        for p, score in (("fp32", 0.625), ("nf4", 0.5))
    ]
    text = shown(records, 80)
    assert {"arc", "acc"} <= set(text.split())
    assert lines_of(text, "nf4") == [["nf4", "0.500"]]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_all_columns_stand_side_by_side(width: int) -> None:
    text = shown(quickstart_records(), width)
    assert max(map(len, text.splitlines())) <= width
    for label in PRECISIONS:
        row = lines_of(text, label)[0]
        assert len(row) == (8 if label == "fp32" else 7)
    change = math.exp(0.0059) - 1
    (found,) = re.findall(r"^nf4 .* ([+-]\d\.\d\d)±\d\.\d\d", text, re.MULTILINE)
    assert float(found) == pytest.approx(100 * change, abs=0.2)


def test_several_texts_fit_80_columns() -> None:
    texts = ("prose", "code", "chat")
    records = [quality_record(p, text) for p in ("fp32", "nf4") for text in texts]
    text = shown(records, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    words = " ".join(text.split())
    assert all(name in words for name in texts)


class TestLines:
    """What failed and what is warned of."""

    def test_what_failed_is_told_with_its_whole_reason(self) -> None:
        text = " ".join(shown(quickstart_records(), 80).split())
        assert "oom int8, all measurements (while: load): the machine had 1.2 GiB left" in text
        assert "use a smaller model" in text
        assert "error fp16, latency b4-p128-n32" in text

    def test_cells_skipped_for_one_reason_share_a_line(self) -> None:
        reason = "the weights are random, and this tells what a model has learned; give the model"
        records = [make_failure(p, "quality", "skipped", reason) for p in PRECISIONS]
        records += [footprint_record(p) for p in PRECISIONS]
        lines = [line for line in shown(records, 80).splitlines() if "skipped" in line]
        assert lines == [
            "skipped  fp32, bf16, fp16 (+4), quality: the weights are random, and this…"
        ]

    def test_a_warning_of_many_records_is_one_line(self) -> None:
        records = [
            latency_record(p, repeat).model_copy(
                update={
                    "warnings": (
                        f"not stable after {10 + repeat} iterations of warm-up: it was busy; wait",
                    )
                }
            )
            for p in PRECISIONS[1:]
            for repeat in range(3)
        ]
        records += [latency_record("fp32")]
        (line,) = [line for line in shown(records, 80).splitlines() if line.startswith("!  ")]
        assert line == (
            "!  bf16, fp16, int8 (+3): not stable after 10-12 iterations of… (18 records)"
        )

    def test_the_page_has_the_whole_of_what_a_line_cuts(self) -> None:
        text = shown(published("mistral-shape"), 80)
        assert sum(line.startswith("skipped") for line in text.splitlines()) == 1
        assert max(map(len, text.splitlines())) <= 80
        assert "close other programs" not in text

    def test_the_sentences_are_left_to_the_page(self) -> None:
        text = " ".join(shown(published("full"), 80).split())
        for words in ("Smallest:", "Lowest prefill time", "It takes:", "trained 9.02 %"):
            assert words not in text

    def test_what_to_run_comes_first_in_a_line_with_its_limits(self) -> None:
        lines = shown(published("full"), 80).splitlines()
        assert lines[1].startswith("Recommended: int8, the lowest static bytes of the 4 cells")
        assert " ".join(" ".join(lines[2:4]).split()) == (
            "Limited by: perplexity on stdlib-heldout at most +1 % (by default; qbench recommend"
            " takes others)."
        )
        assert lines[4] == ""

    def test_markup_in_reasons_is_shown_as_it_is(self) -> None:
        text = shown([make_failure("nf4[x]", "footprint", "error", "layers[0] [red]x[/red]")], 120)
        assert "layers[0] [red]x[/red]" in text
        assert "nf4[x]" in text


@pytest.mark.parametrize("colours", [True, False])
def test_where_the_report_lies_is_a_link_where_a_terminal_makes_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, colours: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    environment = {"TERM": "xterm-256color", **({"FORCE_COLOR": "1"} if colours else {})}
    folder = tmp_path / "my reports"
    told = CliRunner(env=environment).invoke(
        app, ["report", str(PUBLISHED / "mistral-shape"), "--reports", str(folder)]
    )
    lines = [one for one in told.stdout.splitlines() if one.startswith("report: ")]
    markdown, page = (next(folder.glob(f"*.{suffix}")) for suffix in ("md", "html"))
    (line,) = [one for one in lines if str(markdown) in one]
    assert (markdown.as_uri() in line) == colours
    (address,) = [one for one in lines if page.as_uri() in one]
    for one in (line, address):
        assert ("\x1b]8;" in one) == colours


def test_no_records() -> None:
    assert "no records yet" in shown([], 80)


def test_passed_over_records_are_counted() -> None:
    records = [footprint_record("nf4"), footprint_record("nf4", protocol="0")]
    assert "1 record of protocol 0 left out" in " ".join(shown(records, 80).split())
