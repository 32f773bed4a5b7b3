"""Records and baselines with anything anywhere: reported, compared, gated, or refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.compare.baseline import render_baseline
from qbench.report.frame import load_results
from tests.fuzz.conftest import of_usual
from tests.fuzz.mutations import Mutant, mutated, paths
from tests.fuzz.places import check, place, write_json
from tests.paired_records import divergence, losses, quality, task
from tests.record_factory import footprint_record, latency_record, make_failure, memory_record
from tests.tuned_records import tuned_arm
from tests.workplace import keep, place_of

if TYPE_CHECKING:
    from qbench.core.record import Record

pytestmark = pytest.mark.slow

FORMATS = ("markdown", "csv", "json", "benchmark-json")
SUITE = """\
name: quickstart
models: [bundled:tiny-mistral]
precisions: [fp32, nf4]
measure: [footprint]
gate:
  perplexity: {max_increase: 3%}
  kl: {max: 0.05}
  tasks.*: {max_drop: 0.1, against: reference}
  memory.static: {max_increase: 1%}
  latency.decode: {max_increase: 10%, inconclusive: pass}
"""


def _records() -> list[Record]:
    """Of each kind of measurement, with short series: they are compared at every example."""
    made = []
    for precision in ("fp32", "nf4"):
        made += [
            footprint_record(precision),
            memory_record(precision),
            latency_record(precision),
            quality(precision, losses(0.01 * (precision == "nf4"), windows=24)),
            task(precision, [1.0, 0.0, 1.0, 1.0] * 4),
        ]
    made += [divergence("nf4", [0.1] * 24, slug="other"), make_failure("nf4", "x", "oom", "full")]
    return [*made, *tuned_arm("qlora-nf4")]


RECORDS = [record.model_dump(mode="json") for record in _records()]
NAMES = [place_of(Path(), record).name for record in _records()]
PLACES = [(index, *path) for index, one in enumerate(RECORDS) for path in paths(one)]
BASELINE = json.loads(render_baseline(_records()))


def put(folder: Path, records: Any) -> None:
    if not isinstance(records, list):
        records = [records]
    for name, record in zip(NAMES, records, strict=False):
        key = record.get("key") if isinstance(record, dict) else None
        ending = key if isinstance(key, str) and key.isalnum() and len(key) < 50 else "0"
        write_json(folder / "results" / "quickstart" / f"{name[:40]}-{ending}.json", record)


@of_usual(1)
@given(records=mutated(RECORDS, PLACES), name=st.sampled_from(FORMATS))
def test_reports(records: Mutant, name: str) -> None:
    with place() as folder:
        put(folder, records.value)
        check(folder, "report", "--format", name)
        check(folder, "report", "--format", name, "--output", "-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_results(folder / "results").to_csv()


@of_usual(1)
@given(records=mutated(RECORDS, PLACES))
def test_comparisons(records: Mutant) -> None:
    with place() as folder:
        put(folder, records.value)
        check(folder, "compare", "tiny-mistral--nf4", "tiny-mistral--fp32", "--all")
        check(folder, "compare", "results/quickstart", "results/quickstart", "--format", "markdown")


@of_usual(1)
@given(records=mutated(RECORDS, PLACES), name=st.sampled_from(["text", "json", "html"]))
def test_recommendations(records: Mutant, name: str) -> None:
    with place() as folder:
        put(folder, records.value)
        check(folder, "recommend", "results", "--format", name)
        limits = ("--max-bytes", "1GiB", "--max-decode", "10ms", "--max-kl", "0.01")
        check(folder, "recommend", "results", *limits, "--minimize", "decode", "--format", name)


@of_usual(1)
@given(
    records=mutated(RECORDS, PLACES),
    baseline=mutated(BASELINE, list(paths(BASELINE))),
    name=st.sampled_from(["text", "markdown", "html", "json", "csv"]),
)
def test_histories(records: Mutant, baseline: Mutant, name: str) -> None:
    with place() as folder:
        put(folder, records.value)
        write_json(folder / "results" / "baselines" / "quickstart.json", baseline.value)
        check(folder, "history", "quickstart", "--all", "--format", name)


@of_usual(1)
@given(records=mutated(RECORDS, PLACES), baseline=mutated(BASELINE, list(paths(BASELINE))))
def test_gates_and_baselines(records: Mutant, baseline: Mutant) -> None:
    with place() as folder:
        put(folder, records.value)
        (folder / "quickstart.yaml").write_text(SUITE, encoding="utf-8")
        write_json(folder / "old.json", baseline.value)
        outputs = ("--junit", "gate.xml", "--step-summary", "summary.md")
        check(folder, "gate", "quickstart.yaml", "--baseline", "old.json", *outputs)
        check(folder, "baseline", "quickstart.yaml", "--output", "made.json")
        check(folder, "compare", "results/quickstart", "old.json")


@of_usual(1)
@given(records=mutated(RECORDS, PLACES), name=st.sampled_from(["text", "json", "csv"]))
def test_merges(records: Mutant, name: str) -> None:
    found = records.value if isinstance(records.value, list) else [records.value]
    with place() as folder:
        for good, bad in zip(_records(), found, strict=False):
            keep(folder / "good", good)
            write_json(place_of(folder / "bad", good), bad)
        (folder / "quickstart.yaml").write_text(SUITE, encoding="utf-8")
        check(folder, "merge", "bad", "--to", "results/alone", "--format", name)
        check(folder, "merge", "good", "bad", "--suite", "quickstart.yaml", "--format", name)
        check(folder, "report", "results/quickstart", "--format", "markdown")


@of_usual(1)
@given(contents=st.binary(max_size=200) | st.sampled_from([b"{}", b"[]", b"\x1f\x8b\x08"]))
def test_files_of_any_bytes(contents: bytes) -> None:
    with place() as folder:
        (folder / "quickstart.yaml").write_text(SUITE, encoding="utf-8")
        for name in ("results/quickstart/a-0.json", "old.json", "old.gz"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)
        check(folder, "report")
        check(folder, "compare", "old.json", "old.gz")
