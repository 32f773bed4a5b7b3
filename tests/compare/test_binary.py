"""Outcomes of right and wrong, compared with Clopper and Pearson, McNemar, and enumerations."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from qbench.compare.estimates.binary import PairedProportions, Proportion
from qbench.compare.estimates.estimates import equivalence, two_sided
from qbench.compare.estimates.power import detectable_change, units_needed, units_to_find


@pytest.mark.parametrize(("right", "trials"), [(0, 20), (20, 20), (3, 8), (317, 400)])
@pytest.mark.parametrize("alpha", [0.025, 0.05])
def test_the_limits_of_a_share_are_clopper_and_pearsons(
    right: int, trials: int, alpha: float
) -> None:
    theirs = stats.binomtest(right, trials).proportion_ci(1 - 2 * alpha, method="exact")
    ours = Proportion(right, trials)
    assert ours.limit(alpha) == pytest.approx(theirs.low, abs=1e-9)
    assert ours.limit(1 - alpha) == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize("trials", [3, 20, 100, 1000])
def test_where_no_pair_differs_the_interval_is_open_by_the_chance_of_seeing_none(
    trials: int,
) -> None:
    estimate = PairedProportions(0, 0, trials)
    assert estimate.limit(0.95) == pytest.approx(1 - 0.05 ** (1 / trials), abs=1e-9)
    assert estimate.limit(0.05) == pytest.approx(-estimate.limit(0.95), abs=1e-9)
    assert estimate.value == 0 < estimate.standard_error


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 3), (5, 16), (40, 12), (0, 9)])
def test_at_0_the_p_value_is_mcnemars(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert two_sided(PairedProportions(gained, lost, 400)) == pytest.approx(expected, rel=1e-6)


def test_where_every_pair_differs_the_limits_are_those_of_the_share_of_gains() -> None:
    theirs = stats.binomtest(13, 40).proportion_ci(0.9, method="exact")
    ours = PairedProportions(13, 27, 40)
    assert ours.limit(0.05) <= 2 * theirs.low - 1 + 0.01
    assert ours.limit(0.95) == pytest.approx(2 * theirs.high - 1, abs=0.05)


def test_changing_sides_changes_signs_and_the_span_is_a_factor() -> None:
    one, other = PairedProportions(7, 15, 200), PairedProportions(15, 7, 200)
    wide = PairedProportions(7, 15, 200, span=100.0)
    for share in (0.01, 0.05, 0.95):
        assert other.limit(1 - share) == pytest.approx(-one.limit(share), abs=1e-4)
        assert wide.limit(share) == pytest.approx(100 * one.limit(share), abs=1e-4)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.95, 0.999])
def test_limit_and_confidence_are_inverse(share: float) -> None:
    for estimate in (
        Proportion(3, 50),
        Proportion(50, 50),
        PairedProportions(4, 9, 60),
        PairedProportions(0, 5, 30),
    ):
        limit = estimate.limit(share)
        if 1e-9 < abs(limit) < 1 - 1e-9:
            assert estimate.confidence_below(limit) == pytest.approx(share, abs=1e-6)


def test_a_large_sample_has_the_normal_interval() -> None:
    estimate = PairedProportions(900, 700, 20_000)
    error = math.sqrt(1600 - 200**2 / 20_000) / 20_000
    for share in (0.05, 0.95):
        closed = 200 / 20_000 + stats.norm.ppf(share) * error
        assert estimate.limit(share) == pytest.approx(closed, abs=0.05 * error)


@cache
def confidences(trials: int, difference: float) -> tuple[list[tuple[int, int]], list[float]]:
    """Every outcome of so many pairs, and the confidence that it gives of a lower difference."""
    outcomes = [(b, c) for b in range(trials + 1) for c in range(trials + 1 - b)]
    return outcomes, [
        PairedProportions(b, c, trials).confidence_below(difference) for b, c in outcomes
    ]


@pytest.mark.parametrize("both_ways", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("drop", [0.0, 0.01, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("trials", [8, 20, 50])
def test_either_end_is_wrong_in_at_most_5_per_cent_of_all_outcomes(
    trials: int, drop: float, both_ways: float
) -> None:
    outcomes, below = confidences(trials, -drop)
    shares = [both_ways, both_ways + drop, 1 - 2 * both_ways - drop]
    chances = stats.multinomial.pmf([[b, c, trials - b - c] for b, c in outcomes], trials, shares)
    too_low = chances[np.array(below) > 0.95].sum()
    too_high = chances[np.array(below) < 0.05].sum()
    assert max(too_low, too_high) <= 0.05


def test_what_is_the_same_in_3_or_20_items_is_not_the_same_within_a_point() -> None:
    for trials, same in ((3, False), (20, False), (100, False), (298, False), (299, True)):
        assert (equivalence(PairedProportions(0, 0, trials), -0.01, 0.01) <= 0.05) is same


def test_units_needed_are_enough_to_decide_and_not_many_more() -> None:
    # 299 pairs decide if none of them differs, which is not certain of more pairs
    needed = units_needed(PairedProportions(0, 0, 8), 8, -0.01, alpha=0.05)
    assert needed is not None
    assert 299 <= needed <= 600
    assert units_needed(Proportion(8, 8), 8, 0.5, alpha=0.05) in range(5, 13)
    assert units_needed(PairedProportions(3, 3, 60), 60, 0.0, alpha=0.05) is None


@pytest.mark.parametrize(("gained", "lost", "trials"), [(0, 0, 100), (4, 10, 400), (20, 20, 200)])
def test_the_stated_power_is_what_simulation_gives(gained: int, lost: int, trials: int) -> None:
    stated = PairedProportions(gained, lost, trials)
    change = detectable_change(stated, alpha=0.05)
    shares = [gained / trials, lost / trials + change, 1 - (gained + lost) / trials - change]
    runs = 1000
    drawn = np.random.default_rng(3).multinomial(trials, shares, runs)
    confidence = [
        1 - PairedProportions(b, c, trials).upper(stated.value) for b, c, _ in drawn.tolist()
    ]
    found = sum(one <= 0.05 for one in confidence)
    assert 0.74 <= found / runs <= 0.9
    again = units_to_find(stated, trials, change, alpha=0.05)
    assert again == pytest.approx(trials, rel=0.02, abs=1)


def test_of_a_few_items_no_change_is_detectable() -> None:
    assert detectable_change(PairedProportions(0, 0, 3), alpha=0.05) == math.inf


def test_a_relative_difference_is_that_of_the_shares_over_the_second() -> None:
    plain, relative = PairedProportions(7, 15, 200), PairedProportions(7, 15, 200, base=0.8)
    assert relative.value == pytest.approx(math.log(0.76 / 0.8))
    for share in (0.01, 0.05, 0.95):
        expected = math.log1p(plain.limit(share) / 0.8)
        assert relative.limit(share) == pytest.approx(expected, abs=1e-6)
    small = detectable_change(plain, alpha=0.05)
    assert detectable_change(relative, alpha=0.05) == pytest.approx(small / 0.8, rel=1e-3)
