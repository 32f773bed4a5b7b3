"""The table in terminals of several widths."""

from __future__ import annotations

import pytest

from tests.pages import short_report as shown
from tests.record_factory import (
    PRECISIONS,
    footprint_record,
    make_failure,
    quality_record,
    quickstart_records,
)


def lines_of(text: str, label: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.split()[:1] == [label]]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_all_columns_stand_side_by_side(width: int) -> None:
    text = shown(quickstart_records(), width)
    assert max(map(len, text.splitlines())) <= width
    for label in PRECISIONS:
        row = lines_of(text, label)[0]
        assert len(row) == (9 if label == "fp32" else 8)
    assert "6.295*" in text
    assert "+0.985" in text


def test_a_narrow_terminal_gets_whole_columns_in_several_tables() -> None:
    text = shown(quickstart_records(), 40)
    assert max(map(len, text.splitlines())) <= 40
    rows = lines_of(text, "nf4-dq")
    assert len(rows) > 1
    assert "10.9972" in [word for row in rows for word in row]


def test_several_texts_fit_80_columns() -> None:
    texts = ("prose", "code", "chat")
    records = [quality_record(p, text) for p in ("fp32", "nf4") for text in texts]
    text = shown(records, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_failures_are_shown() -> None:
    text = " ".join(shown(quickstart_records(), 80).split())
    assert "oom int8, all measurements (while: load): the machine had 1.2 GiB left" in text
    assert "error fp16, latency b4-p128-n32" in text


def test_markup_in_reasons_is_shown_as_it_is() -> None:
    text = shown([make_failure("nf4[x]", "footprint", "error", "layers[0] [red]x[/red]")], 120)
    assert "layers[0] [red]x[/red]" in text
    assert "nf4[x]" in text


def test_no_records() -> None:
    assert "no records yet" in shown([], 80)


def test_passed_over_records_are_counted() -> None:
    records = [footprint_record("nf4"), footprint_record("nf4", protocol="0")]
    assert "1 record of protocol 0 left out" in " ".join(shown(records, 80).split())
