"""Reading, writing and rendering of many records, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.store import read_folder, write_record
from tests.pages import REPORT_FORMATS, short_report, written_as
from tests.record_factory import cell_records, footprint_record
from tests.workplace import keep

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from qbench.core.record import Record

RECORDS = 1000


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Records of 112 cells: 16 models in seven precisions."""
    made: list[Record] = []
    number = 0
    while len(made) < RECORDS:
        for precision in ("fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq"):
            made += cell_records(precision, model=f"model-{number}")
        number += 1
    return made[:RECORDS]


def test_write_one(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    benchmark(write_record, tmp_path / "record.json", footprint_record("nf4"))


def test_read_1000(benchmark: BenchmarkFixture, records: list[Record], tmp_path: Path) -> None:
    for record in records:
        keep(tmp_path, record)
    found, unreadable = benchmark.pedantic(read_folder, (tmp_path,), rounds=3)
    assert len(found) == RECORDS
    assert unreadable == []


@pytest.mark.parametrize("format_name", REPORT_FORMATS)
def test_write_a_report_of_1000(
    benchmark: BenchmarkFixture, records: list[Record], format_name: str
) -> None:
    assert benchmark.pedantic(written_as, (format_name, records), rounds=3)


def test_show_a_report_of_1000(benchmark: BenchmarkFixture, records: list[Record]) -> None:
    assert benchmark.pedantic(short_report, (records, 100), rounds=3)
