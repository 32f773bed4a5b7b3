"""Latencies for pytest-benchmark: read by its own command."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from qbench.report import benchmark_json
from tests.paired_records import latency
from tests.record_factory import make_failure, make_record, quickstart_records

COMMAND = Path(sys.executable).with_name("pytest-benchmark")


def test_a_round_is_a_process() -> None:
    seconds = [0.010, 0.012, 0.011, 0.015, 0.010]
    document = json.loads(benchmark_json.render(latency("nf4", seconds)))
    (benchmark,) = document["benchmarks"]
    stats = benchmark["stats"]
    assert benchmark["name"] == "latency.decode[tiny-mistral-nf4-b1-p128-n32]"
    assert stats["data"] == seconds
    assert stats["rounds"] == 5
    assert stats["median"] == statistics.median(seconds)
    assert stats["mean"] == pytest.approx(statistics.mean(seconds))
    assert stats["stddev"] == pytest.approx(statistics.stdev(seconds))
    q1, _, q3 = statistics.quantiles(seconds, method="inclusive")
    assert (stats["q1"], stats["q3"]) == pytest.approx((q1, q3))


def test_what_json_has_no_number_for_is_left_out() -> None:
    record = make_record("fp32", "latency", {"latency.decode": 5e-324})
    (one,) = json.loads(benchmark_json.render([record]))["benchmarks"]
    assert one["stats"]["ops"] is None


def test_failures_and_no_records_give_no_benchmarks() -> None:
    failed = make_failure("nf4", "latency", "oom", "no memory")
    for records in ([], [failed]):
        assert json.loads(benchmark_json.render(records))["benchmarks"] == []


def test_pytest_benchmark_compares_two_exports(tmp_path: Path) -> None:
    for name in ("0001_a.json", "0002_b.json"):
        document = benchmark_json.render(quickstart_records())
        (tmp_path / name).write_text(document, encoding="utf-8")
    done = subprocess.run(
        [str(COMMAND), "compare", "0001_a.json", "0002_b.json", "--group-by", "group"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "tiny-mistral-nf4-b1-p128-n32" in done.stdout
    assert "latency.decode" in done.stdout
