"""Energy compares where the same counter told it, in a baseline too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.compare.baseline import read_baseline, write_baseline
from qbench.compare.compare import compare_records
from qbench.core.record import Metric
from tests.paired_records import SAMPLING, latency

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record

PACKAGE, WITH_MEMORY = "RAPL's counters of package-0", "RAPL's counters of package-0, its dram"
FAST = [0.0100, 0.0101, 0.0099, 0.0102, 0.0098]


def drawn(joules: float, method: str | None) -> list[Record]:
    """Five processes, a per cent apart; a record of before says no method."""
    found = []
    for at, record in enumerate(latency("nf4", FAST)):
        value = joules * (1 + at / 100)
        energy = Metric(name="latency.energy", unit="J", better="lower", value=value)
        details = {} if method is None else {"energy_method": method}
        found.append(
            record.model_copy(update={"metrics": (*record.metrics, energy), "details": details})
        )
    return found


@pytest.mark.parametrize(
    ("new", "old", "finding"),
    [
        (PACKAGE, PACKAGE, "real"),
        (PACKAGE, None, "real"),
        (PACKAGE, WITH_MEMORY, "not applicable"),
    ],
)
def test_other_counters_do_not_compare(
    new: str, old: str | None, finding: str, tmp_path: Path
) -> None:
    before = drawn(0.5, old)
    kept = read_baseline(write_baseline(tmp_path / "suite.json", before))
    for side in (before, kept):
        comparison = compare_records(drawn(0.4, new), side, sampling=SAMPLING)
        marks = {row.metric: row.mark for row in comparison.rows}
        assert marks["latency.decode"].finding == "equivalent"
        assert marks["latency.energy"].finding == finding
        told = f"energy is told by {new} here, by {old} there"
        assert (marks["latency.energy"].reason == told) is (finding == "not applicable")
