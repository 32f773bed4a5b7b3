"""Numbers that the pages of docs/ quote are those that the program works with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.compare.marks import default_allowance
from qbench.core.store import read_folder
from qbench.measures.timing import STABLE_WITHIN, UNSTABLE_SPREAD, WARMUP_LEAST, WARMUP_MOST

if TYPE_CHECKING:
    from qbench.core.record import Record

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return read_folder(ROOT / "results" / "published" / "quickstart")[0]


def words(page: str) -> str:
    return " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())


def test_the_warm_up_is_as_told() -> None:
    text = words("measurements.md")
    assert f"at least {WARMUP_LEAST} iterations and ends when the last {WARMUP_LEAST}" in text
    assert f"differ by at most {STABLE_WITHIN:.0%}".replace("%", " %") in text
    assert f"or after {WARMUP_MOST}." in text
    assert f"is above {UNSTABLE_SPREAD:.0%}".replace("%", " %") in text


@pytest.mark.parametrize(
    ("title", "measurement", "metric", "unit"),
    [
        ("perplexity, bits per byte", "quality", "perplexity", ""),
        ("perplexity, bits per byte", "quality", "bits_per_byte", ""),
        ("KL", "quality", "kl.mean", " nat"),
        ("completion loss", "completion", "completion.loss", " nat"),
        ("times, rates", "latency", "latency.decode", ""),
        ("memory", "memory", "memory.peak", ""),
        ("bytes, footprint", "footprint", "memory.static", ""),
        ("shares, such as accuracy", "tasks", "tasks.stdlib-choice.acc", ""),
    ],
)
def test_the_margins_of_equivalence_are_as_told(
    records: list[Record], title: str, measurement: str, metric: str, unit: str
) -> None:
    example = next(
        found
        for record in records
        if record.item.measurement == measurement
        for found in record.metrics
        if found.name == metric
    )
    margin = default_allowance(example, measurement)
    amount = f"{100 * margin.amount:g} %" if margin.relative and margin.amount else ""
    amount = amount or f"{margin.amount:g}{unit}"
    assert f"| {title} | ±{amount} |" in words("statistics.md")
