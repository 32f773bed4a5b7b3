"""Baseline files: what they keep, what they leave out, and what is said of bad ones."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from qbench.compare.baseline import read_baseline, render_baseline, write_baseline
from qbench.compare.compare import compare_records
from qbench.core.errors import StoreError
from tests.paired_records import divergence, task, untouched
from tests.record_factory import make_failure, make_record, quickstart_records
from tests.tuned_records import finetune_records

if TYPE_CHECKING:
    from pathlib import Path


def test_what_comparing_reads_is_kept(tmp_path: Path) -> None:
    records = [
        *untouched(),
        divergence("fp4", [0.003, 0.004] * 120),
        make_failure("int8", "footprint", "oom", "no memory", slug="model"),
    ]
    read = read_baseline(write_baseline(tmp_path / "suite.json", records))
    for before, after in zip(records, read, strict=True):
        assert after.cell.slug == before.cell.slug
        assert after.item == before.item
        assert after.environment == before.environment
        assert (after.status, after.reason) == (before.status, before.reason)
        assert [(m.name, m.value) for m in after.metrics] == [
            (m.name, m.value) for m in before.metrics
        ]
        assert after.series == before.series
        assert after.details.get("item_ids") == before.details.get("item_ids")
    comparison = compare_records(records, read)
    assert {row.mark.finding for row in comparison.rows} <= {"equivalent", "missing"}
    assert comparison.conditions == ()


def test_tuned_models_are_told_apart(tmp_path: Path) -> None:
    records = finetune_records(seeds=(0, 1))
    read = read_baseline(write_baseline(tmp_path / "suite.json", records))
    cells = [
        [(one.cell.label, one.cell.tuning, one.cell.deploy) for one in side]
        for side in (records, read)
    ]
    assert cells[0] == cells[1]
    assert any(record.cell.deploy for record in read)


def test_what_several_cells_share_stands_once() -> None:
    scores = [1.0, 0.0] * 200
    one = render_baseline([task("nf4", scores)])
    four = render_baseline([task(label, scores) for label in ("fp32", "int8", "nf4", "fp4")])
    assert len(four) < len(one) * 1.6
    assert four.count("item-399") == 1


def test_raw_samples_logs_and_places_on_the_machine_are_left_out() -> None:
    record = make_record("nf4", params={"text": {"name": "t", "location": "/home/me/t.txt"}})
    location = record.cell.model.model_copy(update={"location": "/home/me/model"})
    cell = record.cell.model_copy(update={"model": location})
    noisy = record.model_copy(
        update={"cell": cell, "log_tail": "a log", "series": {"decode_device_s": [0.1]}}
    )
    text = render_baseline([noisy])
    for left_out in ("/home/me", "a log", "decode_device_s"):
        assert left_out not in text


def test_the_quickstart_is_small_enough_to_commit(tmp_path: Path) -> None:
    path = write_baseline(tmp_path / "quickstart", quickstart_records())
    assert path.name == "quickstart.json"
    assert path.stat().st_size < 256 * 1024


def test_the_same_records_give_the_same_file_compressed_or_not(tmp_path: Path) -> None:
    records = untouched()
    paths = [write_baseline(tmp_path / f"{name}.json.gz", records) for name in ("a", "b")]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert gzip.decompress(first).decode() == render_baseline(records)
    assert read_baseline(paths[0])[0].series == records[0].series


def test_a_large_file_without_a_suffix_is_compressed(tmp_path: Path) -> None:
    many = [task("nf4", [1.0, 0.0] * 10_000)]
    ids = [f"a rather long name of the item {index}" for index in range(20_000)]
    long = many[0].model_copy(update={"details": {"item_ids": ids}})
    assert write_baseline(tmp_path / "large", [long]).name == "large.json.gz"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cut short"),
        (b'{"baseline_version": 2, "records": [', "cut short"),
        (b"\x1f\x8b\x08 not gzip", "cut short"),
        (gzip.compress(b"{}", mtime=0)[:-9] + b"\xff" * 9, "cut short"),
        (b'{"baseline_version": 2, "records": [Infinity]}', "damaged"),
        (b'{"baseline_version": 2, "records": [1e999]}', "damaged"),
        (b'{"baseline_version": 2, "records": ' + b"[" * 5000 + b"]" * 5000 + b"}", "damaged"),
        (b"[1, 2]", "not a baseline"),
        (b'{"schema_version": 1}', "not a baseline"),
        (b'{"baseline_version": 1}', "tells no tuned models apart"),
        (b'{"baseline_version": 99}', "upgrade qbench"),
        (b'{"baseline_version": 2, "records": [{"values": {}}]}', "damaged"),
        (b'{"baseline_version": 2}', "damaged"),
    ],
)
def test_a_bad_file_is_told_with_a_remedy(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=words) as caught:
        read_baseline(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such baseline"):
        read_baseline(tmp_path / "none.json")


def test_no_baseline_is_made_of_failures(tmp_path: Path) -> None:
    failed = make_failure("nf4", "footprint", "crash", "died")
    with pytest.raises(StoreError, match="qbench run"):
        write_baseline(tmp_path / "baseline.json", [failed])
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_json_with_one_line_a_record() -> None:
    records = untouched()
    text = render_baseline(records)
    assert json.loads(text)["suite"] == "quickstart"
    assert sum(line.startswith('{"key"') for line in text.splitlines()) == len(records)
