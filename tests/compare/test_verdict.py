"""Margins and differences in, verdicts out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from qbench.compare.comparable import Gap
from qbench.compare.differences import difference
from qbench.compare.estimates.estimates import Exact, Student
from qbench.compare.verdicts import Margin, amount_text, judge
from tests.paired_records import SAMPLING, footprint, latency, losses, quality

if TYPE_CHECKING:
    from qbench.compare.differences import Difference
    from qbench.compare.verdicts import Verdict

ONE_PER_CENT = Margin("max_increase", 0.01, relative=True)


def perplexity(log_change: float, spread: float = 0.01, seed: int = 2) -> Difference:
    new, old = losses(log_change, spread=spread, seed=seed), losses(0.0, spread=spread)
    records = [quality("nf4", new)], [quality("nf4", old)]
    return difference(*records, "perplexity", relative=True, sampling=SAMPLING)


def size(new: float, old: float) -> Difference:
    records = [footprint("nf4", new)], [footprint("nf4", old)]
    return difference(*records, "memory.static", relative=True, sampling=SAMPLING)


def verdict(margin: Margin, found: Difference | Gap) -> Verdict:
    (only,) = judge([(margin, found)])
    return only


@pytest.mark.parametrize(
    ("change", "name"),
    [(0.0, "holds"), (0.004, "holds"), (0.03, "broken"), (-0.02, "improved")],
)
def test_a_change_is_judged_by_its_whole_interval(change: float, name: str) -> None:
    assert verdict(ONE_PER_CENT, perplexity(change)).name == name


def test_near_the_margin_it_is_inconclusive_and_says_what_would_decide() -> None:
    near = verdict(ONE_PER_CENT, perplexity(0.012, spread=0.03))
    assert near.name == "inconclusive"
    assert near.low is not None
    assert near.high is not None
    assert near.low < 0.01 < near.high
    assert near.units_needed is not None
    assert near.units_needed > 240
    assert "windows would decide" in near.reason


def test_the_interval_is_shown_as_a_ratio() -> None:
    found = perplexity(0.004)
    shown = verdict(ONE_PER_CENT, found)
    assert found.estimate is not None
    assert shown.low == pytest.approx(math.expm1(found.estimate.limit(0.05)))
    assert shown.high == pytest.approx(math.expm1(found.estimate.limit(0.95)))
    assert shown.detectable is not None
    assert 0 < shown.detectable < 0.01


@pytest.mark.parametrize(
    ("new", "old", "amount", "name"),
    [
        (1000, 1000, 0.0, "holds"),
        (1020, 1000, 0.02, "holds"),
        (1021, 1000, 0.02, "broken"),
        (1001, 1000, 0.0, "broken"),
        (900, 1000, 0.0, "improved"),
        (5, 0, 0.02, "broken"),
    ],
)
def test_bytes_are_judged_exactly_and_the_margin_itself_is_allowed(
    new: float, old: float, amount: float, name: str
) -> None:
    margin = Margin("max_increase", amount, relative=True)
    assert verdict(margin, size(new, old)).name == name


def test_a_drop_is_judged_the_other_way_round() -> None:
    margin = Margin("max_drop", 0.10, relative=True)
    assert verdict(margin, size(950, 1000)).name == "holds"
    assert verdict(margin, size(850, 1000)).name == "broken"
    assert verdict(margin, size(1100, 1000)).name == "improved"


def test_what_is_too_good_warns() -> None:
    margin = Margin("max_increase", 0.01, relative=True, ceiling=0.05)
    suspicious = verdict(margin, perplexity(-0.10))
    assert suspicious.name == "improved"
    assert suspicious.warning is not None
    assert "too good" in suspicious.warning
    assert verdict(margin, perplexity(-0.02)).warning is None


def test_too_few_processes_are_inconclusive_and_say_how_many_are_needed() -> None:
    records = latency("nf4", [0.01] * 3), latency("nf4", [0.01] * 5)
    found = difference(*records, "latency.decode", relative=True, sampling=SAMPLING)
    told = verdict(Margin("max_increase", 0.1, relative=True), found)
    assert (told.name, told.units_needed) == ("inconclusive", 5)


@pytest.mark.parametrize("kind", ["missing", "incomparable", "not applicable"])
def test_a_gap_is_the_verdict(kind: str) -> None:
    gap = Gap(kind, "because")  # type: ignore[arg-type]
    told = verdict(ONE_PER_CENT, gap)
    assert (told.name, told.reason) == (kind, "because")


def with_estimate(estimate: Student | Exact) -> Difference:
    found = perplexity(0.0)
    return type(found)(
        0.0, 0.0, relative=False, estimate=estimate, method="", unit="items", units=9
    )


def test_broken_is_claimed_after_holms_adjustment_over_all_rules() -> None:
    # a one-sided p of about 0.03 against a margin of 1: enough alone, not among 20
    estimate = Student(1.0 + 1.88, 1.0, 1e6)
    margin = Margin("max_increase", 1.0)
    alone = judge([(margin, with_estimate(estimate))])
    among = judge([(margin, with_estimate(estimate))] * 20)
    assert [one.name for one in alone] == ["broken"]
    assert {one.name for one in among} == {"inconclusive"}
    assert "taken alone" in among[0].reason


def test_holding_is_not_adjusted_since_all_must_hold() -> None:
    estimate = Student(1.0 - 1.88, 1.0, 1e6)
    among = judge([(Margin("max_increase", 1.0), with_estimate(estimate))] * 20)
    assert {one.name for one in among} == {"holds"}


def test_false_alarms_of_a_gate_of_many_rules_are_as_stated() -> None:
    runs = 60
    cases = [
        [(Margin("max_increase", 0.0), perplexity(0.0, seed=100 + run))] for run in range(runs)
    ]
    alarms = sum(judge(case)[0].name == "broken" for case in cases)
    together = judge([case[0] for case in cases])
    assert alarms <= 9  # 3 expected at 5 %; more than 9 has a chance below 1 in 1,000
    assert [one.name for one in together].count("broken") <= 1


def test_amounts_are_written_for_people() -> None:
    assert amount_text(0.00831, relative=True) == "+0.831 %"
    assert amount_text(-0.012, relative=False) == "-0.012"
    assert amount_text(0.0, relative=True) == "0 %"
    assert amount_text(math.inf, relative=True) == "from 0"
    assert amount_text(12345.0, relative=False) == "+12,345"
    assert amount_text(1e300, relative=False) == "+1e+300"
    assert str(ONE_PER_CENT) == "at most +1 %"
    assert str(Margin("max_drop", 0.01)) == "at least -0.01"
    assert str(Margin("max", 0.05)) == "at most 0.05"
    assert str(Margin("min", 0.5)) == "at least 0.5"
