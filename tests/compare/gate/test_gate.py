"""Rules compared with records: verdicts, exit codes, and what is missing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from qbench.compare.gate.gate import run_gate
from qbench.compare.gate.power import gate_power
from qbench.core.errors import UsageError
from tests.compare.gate.rule_section import read_rules
from tests.paired_records import (
    OTHER_DEVICE,
    SAMPLING,
    divergence,
    footprint,
    latency,
    losses,
    quality,
    task,
    untouched,
)
from tests.record_factory import make_failure, make_metric, make_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.gate.gate import Check, GateOutcome
    from qbench.compare.gate.power import Power
    from qbench.core.record import Record

RULES = {
    "perplexity": {"max_increase": "1%"},
    "tasks.*": {"max_drop": 0.02},
    "memory.static": {"max_increase": "2%"},
    "latency.decode": {"max_increase": "10%"},
}


def gate(
    rules: dict[str, Any],
    new: Sequence[Record],
    old: Sequence[Record] | None,
    **options: Any,
) -> GateOutcome:
    return run_gate(read_rules(rules), new, old, sampling=SAMPLING, **options)


def only(outcome: GateOutcome) -> Check:
    (check,) = outcome.checks
    return check


def names(outcome: GateOutcome) -> dict[str | None, str]:
    return {check.metric: check.verdict.name for check in outcome.checks}


def test_an_unchanged_run_passes() -> None:
    outcome = gate(RULES, untouched(), untouched())
    assert outcome.exit_code == 0
    assert set(names(outcome).values()) == {"holds"}
    assert len(outcome.checks) == 4


@pytest.mark.parametrize("seed", range(10))
def test_a_rerun_that_differs_by_rounding_passes(seed: int) -> None:
    rerun = [
        quality("nf4", losses(0.0, seed=1)),
        quality("fp4", losses(1e-6, spread=1e-5, seed=seed)),
        task("nf4", [*[1.0] * 320, *[0.0] * 79, 1.0]),
    ]
    before = [
        quality("nf4", losses(0.0, seed=1)),
        quality("fp4", losses(0.0, spread=1e-5, seed=100)),
        task("nf4", [1.0] * 320 + [0.0] * 80),
    ]
    rules = {"perplexity": RULES["perplexity"], "tasks.*": RULES["tasks.*"]}
    assert gate(rules, rerun, before).exit_code == 0


@pytest.mark.parametrize(
    ("items", "name"), [(3, "inconclusive"), (20, "inconclusive"), (400, "holds")]
)
def test_a_task_holds_only_with_items_enough_to_have_shown_a_drop(items: int, name: str) -> None:
    records = [task("nf4", [1.0] * (items - 1) + [0.0])]
    check = only(gate({"tasks.*": {"max_drop": 0.01}}, records, records))
    assert check.verdict.name == name
    if name == "inconclusive":
        assert check.verdict.low == pytest.approx(-(1 - 0.05 ** (1 / items)), abs=1e-6)
        assert check.verdict.units_needed is not None
        assert 299 <= check.verdict.units_needed <= 600
        assert f"items would decide, {items} are there" in check.verdict.reason


@pytest.mark.parametrize("items", [20, 50, 100])
def test_a_drop_beyond_the_margin_passes_in_at_most_5_per_cent_of_runs(items: int) -> None:
    drawn = random.Random(items)
    passed = 0
    for _ in range(60):
        new = [float(drawn.random() >= 0.02) for _ in range(items)]
        rules = {"tasks.*": {"max_drop": 0.01}}
        passed += gate(rules, [task("nf4", new)], [task("nf4", [1.0] * items)]).exit_code == 0
    assert passed <= 3


def test_damage_is_caught() -> None:
    damaged = [
        quality("nf4", losses(0.03, seed=2)),
        task("nf4", [1.0] * 270 + [0.0] * 130),
        *latency("nf4", [0.0150, 0.0151, 0.0149, 0.0152, 0.0148]),
        footprint("nf4", 1_100_000),
    ]
    outcome = gate(RULES, damaged, untouched())
    assert set(names(outcome).values()) == {"broken"}
    assert outcome.exit_code == 1


def test_damage_is_caught_when_the_weights_are_others() -> None:
    new = quality("nf4", losses(0.03, seed=2), identity={"model": {"fingerprint": "damaged"}})
    outcome = gate({"perplexity": {"max_increase": "1%"}}, [new], [quality("nf4", losses(0.0))])
    assert only(outcome).verdict.name == "broken"
    assert "weights of tiny-mistral" in {one.name for one in outcome.conditions}


def test_what_is_allowed_found_and_why_are_told() -> None:
    new, old = quality("nf4", losses(0.03, seed=2)), quality("nf4", losses(0.0))
    check = only(gate({"perplexity": {"max_increase": "1%"}}, [new], [old]))
    assert check.name == "nf4: perplexity on text-w256-default"
    assert check.allowed == "at most +1 % against the baseline"
    assert check.found.startswith("+2.9")
    assert " to +" in check.found
    assert check.verdict.reason == "beyond the margin"


def test_rules_may_be_against_the_reference_of_the_same_run() -> None:
    records = [
        divergence("fp32", [0.0] * 240),
        quality("nf4", losses(0.005, seed=2)),
        quality("fp4", losses(0.05, seed=3)),
    ]
    rules = {"perplexity": {"max_increase": "3%", "against": "reference"}}
    outcome = gate(rules, records, None)
    assert {c.cell.label: c.verdict.name for c in outcome.checks if c.cell} == {
        "nf4": "holds",
        "fp4": "broken",
    }


def test_a_level_needs_nothing_to_compare_with_and_spares_the_reference() -> None:
    records = [
        quality("fp32", losses(0.0)),
        divergence("nf4", [0.004, 0.005] * 120),
        divergence("fp4", [0.06, 0.08] * 120),
    ]
    outcome = gate({"kl": {"max": 0.05}}, records, None)
    assert {c.cell.label: c.verdict.name for c in outcome.checks if c.cell} == {
        "nf4": "holds",
        "fp4": "broken",
    }
    assert outcome.exit_code == 1


def test_cells_are_picked_by_pattern() -> None:
    records = [footprint(label, 100) for label in ("fp32", "nf4", "nf4-dq")]
    rules = {"memory.static": {"max_increase": "0%", "cells": "nf4*"}}
    outcome = gate(rules, records, records)
    assert [check.cell.label for check in outcome.checks if check.cell] == ["nf4", "nf4-dq"]
    chosen = gate(RULES | rules, records, records, only=["nf4-dq"])
    assert {check.cell.label for check in chosen.checks if check.cell} == {"nf4-dq"}


def test_a_cell_that_failed_or_was_not_measured_is_missing_and_fails() -> None:
    rules = {"memory.static": {"max_increase": "2%"}}
    old = [footprint("nf4", 100), footprint("fp4", 100), footprint("int8", 100)]
    failed = make_failure("nf4", "footprint", "crash", "the process died", slug="model")
    new = [failed, footprint("int8", 100)]
    expected = [(old[1].cell, old[1].item)]
    outcome = gate(rules, new, old, expected=expected)
    reasons = {c.cell.label: c.verdict for c in outcome.checks if c.cell}
    assert {label: verdict.name for label, verdict in reasons.items()} == {
        "nf4": "missing",
        "fp4": "missing",
        "int8": "holds",
    }
    assert "crash (the process died)" in reasons["nf4"].reason
    assert outcome.exit_code == 1


def test_what_the_baseline_does_not_have_is_missing() -> None:
    rules = {"memory.static": {"max_increase": "2%"}}
    outcome = gate(rules, [footprint("nf4", 1), footprint("fp4", 1)], [footprint("nf4", 1)])
    reasons = {c.cell.label: c.verdict.reason for c in outcome.checks if c.cell}
    assert "qbench baseline" in reasons["fp4"]
    assert outcome.exit_code == 1


def test_an_expected_cell_that_nobody_measured_is_missing() -> None:
    asked = footprint("nf4", 1)
    known = footprint("fp32", 1)
    rules = {"memory.static": {"max_increase": "2%"}}
    outcome = gate(rules, [known], [known], expected=[(asked.cell, asked.item)])
    assert {c.cell.label: c.verdict.name for c in outcome.checks if c.cell} == {
        "nf4": "missing",
        "fp32": "holds",
    }


def test_a_rule_that_matches_nothing_is_missing_and_fails() -> None:
    outcome = gate({"perplexty": {"max_increase": "1%"}}, untouched(), untouched())
    assert only(outcome).verdict.name == "missing"
    assert "did you mean 'perplexity'?" in only(outcome).verdict.reason
    assert outcome.exit_code == 1


def test_other_data_cannot_be_compared_and_is_an_error_of_its_own() -> None:
    params = {"text": {"fingerprint": "bb"}, "window": 256, "batch": 4}
    new = quality("nf4", losses(0.0), params=params)
    outcome = gate({"perplexity": {"max_increase": "1%"}}, [new], [quality("nf4", losses(0.0))])
    assert only(outcome).verdict.name == "incomparable"
    assert outcome.exit_code == 2


def test_a_regression_outweighs_what_cannot_be_compared() -> None:
    params = {"text": {"fingerprint": "bb"}, "window": 256, "batch": 4}
    new = [quality("nf4", losses(0.0), params=params), footprint("nf4", 2_000_000)]
    rules = {"perplexity": {"max_increase": "1%"}, "memory.static": {"max_increase": "2%"}}
    assert gate(rules, new, untouched()).exit_code == 1


def test_latency_of_another_device_is_not_applicable_and_passes() -> None:
    new = latency("nf4", [0.5] * 5, environment=OTHER_DEVICE)
    outcome = gate({"latency.decode": {"max_increase": "10%"}}, new, untouched()[2:7])
    assert only(outcome).verdict.name == "not applicable"
    assert outcome.exit_code == 0
    assert "decided nothing" in outcome.warnings[0]


def test_inconclusive_fails_unless_the_rule_says_otherwise() -> None:
    new, old = latency("nf4", [0.01] * 3), latency("nf4", [0.01] * 5)
    strict = gate({"latency.decode": {"max_increase": "10%"}}, new, old)
    lenient = gate({"latency.decode": {"max_increase": "10%", "inconclusive": "pass"}}, new, old)
    assert [strict.exit_code, lenient.exit_code] == [1, 0]
    assert "2 more" in only(strict).verdict.reason
    assert "lets pass" in lenient.warnings[0]


def test_an_improvement_beyond_the_ceiling_warns_and_passes() -> None:
    rules = {"memory.static": {"max_increase": "2%", "ceiling": "30%"}}
    outcome = gate(rules, [footprint("nf4", 400)], [footprint("nf4", 1000)])
    assert only(outcome).verdict.name == "improved"
    assert outcome.exit_code == 0
    assert "too good" in outcome.warnings[0]


def test_a_rule_against_a_baseline_needs_one() -> None:
    with pytest.raises(UsageError, match="--baseline"):
        gate({"perplexity": {"max_increase": "1%"}}, untouched(), None)
    with pytest.raises(UsageError, match="no rules"):
        run_gate((), untouched(), None)


def test_a_metric_without_a_value_on_either_side_is_not_applicable() -> None:
    reserved = make_failure("nf4", "memory", "ok", "").model_copy(update={"reason": None})
    none = (
        footprint("nf4", 1)
        .metrics[0]
        .model_copy(
            update={"name": "memory.reserved", "value": None, "reason": "only CUDA reserves memory"}
        )
    )
    record = reserved.model_copy(update={"metrics": (none,)})
    check = only(gate({"memory.reserved": {"max_increase": "2%"}}, [record], [record]))
    assert check.verdict.name == "not applicable"
    assert check.verdict.reason == "only CUDA reserves memory"


def test_the_power_of_the_rules_is_told_before_anything_is_measured_anew() -> None:
    records = [quality("fp32", losses(0.0)), quality("nf4", losses(0.005, seed=2))]
    rules = read_rules({"perplexity": [{"max_increase": "1%"}, {"max_increase": "0.01%"}]})
    wide, narrow = gate_power(rules, records, sampling=SAMPLING)
    assert wide.detectable is not None
    # two runs of 0.01 nats a token each, 240 windows in 16 blocks, whose spread is known to a fifth
    quantiles = stats.t.ppf(0.95, 15) + stats.t.ppf(0.8, 15)
    assert wide.detectable == pytest.approx(quantiles * 0.01 * 2**0.5 / 240**0.5, rel=0.4)
    assert wide.needed is not None
    assert wide.needed < 240
    assert narrow.needed is not None
    assert narrow.needed > 100_000
    assert "80 % chance" in str(wide)
    assert gate_power(rules, []) == []


def test_the_power_of_a_rule_for_answers_that_were_all_the_same_is_that_of_their_number() -> None:
    rules = read_rules({"tasks.*": {"max_drop": 0.05}})

    def power(items: int) -> Power:
        (found,) = gate_power(rules, [task(name, [1.0] * items) for name in ("fp32", "nf4")])
        return found

    few, some = power(3), power(100)
    assert few.needed is not None
    assert "finds no change at all with 3 items" in str(few)
    assert "would take about" in str(few)
    # 5 losses and no gain are what McNemar's test finds at 5 %; seen with 80 % chance of 6.7
    assert some.detectable == pytest.approx(0.067, rel=0.1)


def test_the_power_of_a_rule_is_not_told_from_losses_that_are_the_same_to_the_last_bit() -> None:
    records = [quality(name, losses(0.0)) for name in ("fp32", "nf4")]
    rules = read_rules({"perplexity": {"max_increase": "1%"}})
    (found,) = gate_power(rules, records)
    assert found.detectable is None
    assert "no spread is known" in str(found)


def test_a_limit_of_flips_is_counted_from_the_other_side() -> None:
    right = [1.0] * 320 + [0.0] * 80
    other = [0.0] * 12 + [1.0] * 308 + [1.0] * 12 + [0.0] * 68
    rules = {"tasks.cloze.flips": {"max": 0.1}}
    made = gate(rules, [task("nf4", other)], [task("nf4", right)])
    exact = stats.binomtest(24, 400).proportion_ci(0.9, method="exact")
    check = only(made)
    assert (check.metric, check.verdict.name) == ("accuracy.flips", "holds")
    assert check.verdict.low == pytest.approx(exact.low, abs=1e-6)
    assert check.verdict.high == pytest.approx(exact.high, abs=1e-6)
    assert check.allowed == "at most 0.1 against the baseline"
    within = [task("fp32", right, reference=True), task("nf4", other)]
    strict = {"*.flips": {"max": 0.02, "against": "reference"}}
    assert only(gate(strict, within, None)).verdict.name == "broken"
    with pytest.raises(UsageError, match="against a baseline and none was"):
        gate(rules, within, None)


def test_flips_of_all_scores_of_a_task_are_found_by_its_name_whatever_its_slug() -> None:
    metrics = {"tasks.cloze.acc": 0.5}
    sides = [
        [
            make_record(
                "nf4",
                "tasks",
                slug="cloze-first60",
                params={"task": {"name": "cloze"}, "limit": 60},
                series={"item_acc": scores},
                more_metrics=tuple(
                    make_metric(name, value).model_copy(update={"better": "higher"})
                    for name, value in metrics.items()
                ),
            )
        ]
        for scores in ([1.0, 0.0] * 30, [0.0, 1.0] + [1.0, 0.0] * 29)
    ]
    for rule in ("tasks.cloze.flips", "tasks.cloze-first60.flips", "tasks.*.flips"):
        check = only(gate({rule: {"max": 0.2}}, *sides))
        assert (check.metric, check.verdict.name) == ("tasks.cloze.acc.flips", "holds")


def test_flips_are_a_share_that_no_rule_on_scores_finds() -> None:
    sides = [task("nf4", [1.0] * 400)], [task("nf4", [1.0] * 399 + [0.0])]
    found = names(gate({"tasks.*": {"max_drop": 0.02}, "accuracy": {"min": 0.5}}, *sides))
    assert set(found) == {"accuracy"}
    wrong = only(gate({"accuracy.flips": {"max_increase": 0.1}}, *sides))
    assert wrong.verdict.name == "missing"
    assert "write {max: …}, found max_increase" in wrong.verdict.reason
    unknown = only(gate({"accuracy.changed": {"max": 0.1}}, *sides))
    assert (unknown.verdict.name, unknown.state) == ("missing", "fail")
    assert "neither side's record holds what was answered" in unknown.verdict.reason
