"""The numbers against closed forms, scipy, hand computations and simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from qbench.compare.estimates.bootstrap import bootstrap
from qbench.compare.estimates.estimates import (
    Exact,
    equivalence,
    holm,
    one_sample,
    two_sided,
    welch,
)
from qbench.compare.estimates.power import detectable_change, units_needed, units_to_find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.estimates.bootstrap import Floats
    from qbench.compare.estimates.estimates import Estimate


def mean_of(sums: list[Floats]) -> Floats:
    """The weighted mean: the second column holds the weights."""
    return sums[0] / sums[1]


def change_of(sums: list[Floats]) -> Floats:
    """The difference of two weighted means."""
    return (sums[0] - sums[1]) / sums[2]


def bootstrapped_mean(values: Sequence[float] | Floats, **options: Any) -> Estimate:
    return bootstrap([list(values), [1.0] * len(values)], mean_of, **options)


def planted(
    random: np.random.Generator,
    log_change: float,
    windows: int = 240,
    tokens: int = 255,
    spread: float = 0.01,
) -> list[Floats]:
    """Summed losses of two runs over the same windows, `log_change` a token apart."""
    base = tokens * random.normal(2.41, 0.3, windows)
    own = base + tokens * random.normal(log_change, spread, windows)
    return [own, base, np.full(windows, float(tokens))]


def test_the_interval_of_a_mean_is_the_closed_form() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    estimate = bootstrapped_mean(values)
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(error, rel=0.03)
    for share in (0.025, 0.05, 0.95, 0.975):
        closed = values.mean() + stats.norm.ppf(share) * error
        assert estimate.limit(share) == pytest.approx(closed, abs=0.1 * error)


def test_the_interval_of_a_skewed_mean_leans_as_scipys_does() -> None:
    values = np.random.default_rng(2).lognormal(0.0, 1.0, 60)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=10_000, method="BCa", rng=3
    ).confidence_interval
    ours = bootstrapped_mean(values)
    assert ours.limit(0.05) == pytest.approx(theirs.low, rel=0.02)
    assert ours.limit(0.95) == pytest.approx(theirs.high, rel=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_one_hardly_another() -> None:
    values = np.random.default_rng(4).normal(size=100)
    first, again, other = (bootstrapped_mean(values, seed=seed) for seed in (0, 0, 1))
    assert first.limit(0.05) == again.limit(0.05)
    assert first.limit(0.05) != other.limit(0.05)
    assert first.limit(0.05) == pytest.approx(other.limit(0.05), abs=0.02)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.5, 0.9, 0.975])
def test_limit_and_confidence_are_inverse(share: float) -> None:
    random = np.random.default_rng(5)
    skewed = bootstrapped_mean(random.lognormal(0.0, 0.8, 80))
    times = welch(random.normal(1.0, 0.1, 6), random.normal(1.0, 0.3, 9))
    for estimate in (skewed, times, one_sample(random.normal(size=7))):
        assert estimate.confidence_below(estimate.limit(share)) == pytest.approx(share, abs=2e-3)


def test_beyond_all_resamples_the_confidence_is_small_but_not_0() -> None:
    estimate = bootstrapped_mean(np.random.default_rng(6).normal(5.0, 1.0, 100), resamples=1000)
    near, far = estimate.confidence_below(4.6), estimate.confidence_below(4.0)
    assert 0 < far < near <= 1 / 1000
    assert 1 - estimate.confidence_below(5.5) <= 1 / 1000


def test_many_units_of_few_kinds_are_resampled_as_one_by_one() -> None:
    own, base = [1.0] * 300 + [0.0] * 100, [1.0] * 280 + [0.0] * 120
    counted = bootstrap([own, base, [1.0] * 400], change_of)
    p = 20 / 400
    assert counted.value == pytest.approx(p)
    assert counted.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=0.03)


def test_pseudo_units_keep_the_interval_open_and_the_figure_in_place() -> None:
    scores = [1.0] * 300 + [0.0] * 100
    columns = [scores, scores, [1.0] * 400]
    closed = bootstrap(columns, change_of)
    assert isinstance(closed, Exact)
    opened = bootstrap(columns, change_of, pseudo_units=[(1, 0, 1), (0, 1, 1)])
    assert opened.value == 0
    # Bonett and Price's adjusted Wald interval: (b + 1) / (n + 2) and (c + 1) / (n + 2)
    error = math.sqrt((2 / 402) / 402)
    assert opened.standard_error == pytest.approx(error, rel=0.05)


def test_a_statistic_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        bootstrap([[0.0] * 30, [1.0] * 30], lambda sums: np.log(sums[0] / sums[1]))


def test_false_alarms_of_the_paired_bootstrap_are_as_stated() -> None:
    random = np.random.default_rng(7)
    runs = 400
    low = high = both = 0
    for _ in range(runs):
        estimate = bootstrap(planted(random, 0.0), change_of, resamples=1000)
        low += estimate.confidence_below(0.0) <= 0.05
        high += 1 - estimate.confidence_below(0.0) <= 0.05
        both += two_sided(estimate) <= 0.05
    for alarms in (low, high, both):
        assert stats.binomtest(alarms, runs, 0.05).pvalue > 0.001


def test_false_alarms_with_skewed_divergences_are_as_stated() -> None:
    random = np.random.default_rng(8)
    runs, true_mean = 400, math.exp(0.5 * 0.6**2)
    covered = 0
    for _ in range(runs):
        estimate = bootstrapped_mean(random.lognormal(0.0, 0.6, 120), resamples=1000)
        covered += estimate.limit(0.05) <= true_mean <= estimate.limit(0.95)
    assert stats.binomtest(covered, runs, 0.90).pvalue > 0.001


def test_false_alarms_of_five_processes_a_side_are_as_stated() -> None:
    random = np.random.default_rng(9)
    runs = 2000
    alarms = sum(
        two_sided(welch(random.normal(1.0, 0.05, 5), random.normal(1.0, 0.05, 5))) <= 0.05
        for _ in range(runs)
    )
    assert 0.03 <= alarms / runs <= 0.065


def test_a_planted_regression_of_one_per_cent_is_found() -> None:
    random = np.random.default_rng(10)
    found = 0
    for _ in range(50):
        estimate = bootstrap(planted(random, math.log(1.01)), change_of, resamples=1000)
        found += 1 - equivalence(estimate, -1.0, math.log1p(0.005)) > 0.95
        found += estimate.confidence_below(math.log1p(0.005)) <= 0.05
    assert found == 50  # never equivalent within 0.5 %, always beyond it


def test_the_stated_power_is_what_simulation_gives() -> None:
    random = np.random.default_rng(11)
    error = 0.01 / math.sqrt(240)
    change = (stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) * error
    stated = bootstrap(planted(random, 0.0), change_of)
    assert detectable_change(stated, alpha=0.05) == pytest.approx(change, rel=0.15)
    runs = 300
    found = sum(
        bootstrap(planted(random, change), change_of, resamples=1000).confidence_below(0.0) <= 0.05
        for _ in range(runs)
    )
    assert stats.binomtest(found, runs, 0.8).pvalue > 0.001


def test_the_units_needed_are_those_with_which_the_change_is_detectable() -> None:
    estimate = bootstrapped_mean(np.random.default_rng(12).normal(0.3, 1.0, 100))
    bound = estimate.value + 0.05
    needed = units_needed(estimate, 100, bound, alpha=0.05)
    assert needed is not None
    shrunk = detectable_change(estimate, alpha=0.05) * math.sqrt(100 / needed)
    assert shrunk == pytest.approx(0.05, rel=0.01)
    assert needed == units_to_find(estimate, 100, 0.05, alpha=0.05)
    assert units_needed(estimate, 100, estimate.value, alpha=0.05) is None


def test_welch_is_scipys() -> None:
    random = np.random.default_rng(13)
    first, second = random.normal(1.0, 0.2, 6), random.normal(1.3, 0.5, 9)
    theirs = stats.ttest_ind(first, second, equal_var=False)
    ours = welch(first, second)
    assert two_sided(ours) == pytest.approx(theirs.pvalue, rel=1e-9)
    interval = theirs.confidence_interval(0.9)
    assert ours.limit(0.05) == pytest.approx(interval.low)
    assert ours.limit(0.95) == pytest.approx(interval.high)


def test_one_sample_is_scipys() -> None:
    values = np.random.default_rng(14).normal(0.4, 1.0, 8)
    assert two_sided(one_sample(values)) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)


def test_sides_that_do_not_vary_differ_exactly() -> None:
    assert welch([2.0, 2.0], [1.5, 1.5]) == Exact(0.5)
    assert one_sample([3.0, 3.0, 3.0]) == Exact(3.0)


def test_holm_by_hand() -> None:
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_claim() -> None:
    random = np.random.default_rng(15)
    runs = 2000
    alarms = sum(min(holm(list(random.random(20)))) <= 0.05 for _ in range(runs))
    assert stats.binomtest(alarms, runs, 0.05).pvalue > 0.001


def test_equivalence_is_the_interval_inside_the_margin() -> None:
    estimate = bootstrapped_mean(np.random.default_rng(16).normal(0.0, 1.0, 200))
    inside = max(abs(estimate.limit(0.05)), abs(estimate.limit(0.95)))
    assert equivalence(estimate, -inside * 1.02, inside * 1.02) <= 0.05
    assert equivalence(estimate, -inside * 0.98, inside * 0.98) > 0.05
