"""Energy as what a model may cost, and as what the best has the least of."""

from __future__ import annotations

import pytest

from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.tables import recommendations
from qbench.compare.selection import select
from qbench.compare.stated import Stated
from qbench.core.record import Metric, Record
from tests.record_factory import footprint_record, latency_record

JOULES = {"fp32": 0.5, "bf16": 0.4, "nf4": 0.8}


def records() -> list[Record]:
    """Five processes of each, a per cent apart; nf4 is the smallest."""
    found = []
    for precision, joules in JOULES.items():
        found.append(footprint_record(precision))
        for repeat in range(5):
            drawn = Metric(
                name="latency.energy", unit="J", better="lower", value=joules * (1 + repeat / 100)
            )
            timed = latency_record(precision, repeat=repeat)
            found.append(timed.model_copy(update={"metrics": (*timed.metrics, drawn)}))
    return found


@pytest.mark.parametrize(
    ("budget", "best"),
    [
        (Budget(), "nf4"),
        (Budget(max_energy=0.6), "bf16"),
        (Budget(max_energy=0.6, minimize="decode"), "bf16"),
        (Budget(minimize="energy"), "bf16"),
        (Budget(max_energy=0.1), None),
    ],
)
def test_the_limit_decides(budget: Budget, best: str | None) -> None:
    (table,) = select(records()).tables
    found = recommendations(table, Stated(budget=budget)).untuned
    assert found is not None
    assert (found.best.cell.label if found.best else None) == best
