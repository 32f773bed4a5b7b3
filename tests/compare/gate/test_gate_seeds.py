"""A rule over several seeds of one tuning: their mean is judged, and their spread counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.gate.gate import run_gate
from qbench.core.spec import PrecisionRef, TuningRef
from tests.compare.gate.rule_section import read_rules
from tests.paired_records import losses, quality

if TYPE_CHECKING:
    from qbench.compare.gate.gate import GateOutcome
    from qbench.core.record import Record


def seed(number: int, shift: float) -> Record:
    """The perplexity record of one seed's attached adapter, its losses shifted by `shift` nats."""
    held = PrecisionRef(label="nf4", name="nf4")
    tuning = TuningRef(
        label=f"qlora-nf4-s{number}",
        arm="qlora-nf4",
        method="lora",
        precision=held,
        seed=number,
    )
    record = quality("nf4", losses(shift, spread=0.001, seed=number))
    cell = record.cell.model_copy(update={"tuning": tuning, "deploy": "attached"})
    return record.model_copy(update={"cell": cell})


def gate(new: list[Record], old: list[Record], rules: dict[str, object]) -> GateOutcome:
    return run_gate(read_rules(rules), new, old, sampling=Sampling(resamples=2000))


def test_seeds_are_judged_together() -> None:
    old = [seed(number, 0.0) for number in range(3)]
    new = [seed(number, shift) for number, shift in enumerate((0.02, -0.02, 0.0))]
    outcome = gate(new, old, {"perplexity": {"max_increase": "10%"}})
    (check,) = outcome.checks
    assert "qlora-nf4--attached (3 seeds)" in check.name
    assert check.verdict.name == "holds"
    assert check.verdict.difference is not None
    assert check.verdict.difference.estimate is not None
    assert check.verdict.difference.estimate.value == pytest.approx(0.0, abs=0.005)


def test_seeds_are_one_check_in_whatever_order_their_items_were_taken() -> None:
    """The first seed by its cell is the second to have the item."""
    other = seed(0, 0.0)
    item = other.item.model_copy(update={"slug": "another-text"})
    other = other.model_copy(update={"item": item})
    new = [other, seed(1, 0.0), seed(0, 0.0), seed(2, 0.0)]
    outcome = gate(new, new, {"perplexity": {"max_increase": "3%"}})
    assert [check.name.partition(":")[0] for check in outcome.checks] == [
        "qlora-nf4-s0--attached",
        "qlora-nf4--attached (3 seeds)",
    ]


def test_their_spread_counts() -> None:
    old = [seed(number, 0.0) for number in range(3)]
    near = [seed(number, 0.0) for number in range(3)]
    far = [seed(number, shift) for number, shift in enumerate((0.1, -0.1, 0.0))]
    rules = {"perplexity": {"max_increase": "3%"}}
    assert gate(near, old, rules).checks[0].verdict.name == "holds"
    assert gate(far, old, rules).checks[0].verdict.name == "inconclusive"


def test_a_seed_without_a_record_is_told_by_its_name() -> None:
    old = [seed(number, 0.0) for number in range(3)]
    outcome = gate(old[:2], old, {"perplexity": {"max_increase": "3%"}})
    missing = [check for check in outcome.checks if check.verdict.name == "missing"]
    assert [check.cell.label for check in missing if check.cell] == ["qlora-nf4-s2--attached"]
    assert outcome.exit_code == 1
