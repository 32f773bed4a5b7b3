"""Records as a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import StoreError
from qbench.core.store import record_path, write_record
from qbench.report.frame import load_results, to_frame
from qbench.report.rows import COLUMNS
from tests.record_factory import (
    footprint_record,
    make_failure,
    quickstart_records,
    static_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record


def test_one_row_a_metric_and_one_a_failure() -> None:
    records = quickstart_records()
    frame = to_frame(records)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == sum(max(1, len(record.metrics)) for record in records)
    failed = frame[frame["status"] == "oom"]
    assert set(failed["label"]) == {"int8"}
    assert failed["value"].isna().all()
    assert failed["reason"].str.contains("use a smaller model").all()


def test_values_can_be_computed_with() -> None:
    frame = to_frame([footprint_record(p) for p in ("fp32", "nf4")])
    static = frame[frame["metric"] == "memory.static"].set_index("label")["value"]
    expected = sum(static_bytes("fp32").values()) / sum(static_bytes("nf4").values())
    assert static["fp32"] / static["nf4"] == pytest.approx(expected)
    assert frame["tabled"].all()


def test_no_records_give_an_empty_frame_with_its_columns() -> None:
    frame = to_frame([])
    assert list(frame.columns) == list(COLUMNS)
    assert frame.empty


def test_only_failures() -> None:
    frame = to_frame([make_failure("nf4", "quality", "timeout", "too slow")])
    assert frame["metric"].isna().all()
    assert list(frame["status"]) == ["timeout"]


def write(folder: Path, record: Record) -> Path:
    kind, cell = record.environment.device_kind, record.cell.slug
    path = record_path(folder, record.suite, kind, cell, record.item, record.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, record)
    return path


def test_results_are_read_from_their_folder(tmp_path: Path) -> None:
    for record in (footprint_record("fp32"), footprint_record("nf4")):
        write(tmp_path, record)
    frame = load_results(tmp_path)
    assert set(frame["label"]) == {"fp32", "nf4"}


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path, footprint_record("fp32"))
    damaged = write(tmp_path, footprint_record("nf4"))
    damaged.write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match=damaged.name):
        frame = load_results(tmp_path)
    assert set(frame["label"]) == {"fp32"}


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        load_results(tmp_path / "nowhere")
