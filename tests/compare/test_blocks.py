"""Blocks of neighbouring windows: lengths, and how often intervals hold what they claim to."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from qbench.compare.estimates.blocks import block_length
from qbench.compare.estimates.bootstrap import Bootstrap, bootstrap
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.estimates.bootstrap import Floats

PUBLISHED = REPOSITORY / "results" / "published" / "full"


def mean_of(sums: list[Floats]) -> Floats:
    return sums[0] / sums[1]


def estimated(values: Floats, *, ordered: bool = True, resamples: int = 500) -> Bootstrap:
    columns = [values.tolist(), [1.0] * len(values)]
    found = bootstrap(columns, mean_of, resamples=resamples, ordered=ordered)
    assert isinstance(found, Bootstrap)
    return found


def correlated(phi: float, count: int, seed: int, *, skewed: bool = False) -> Floats:
    """An AR(1) series of variance 1 and mean 0, or its exponential of mean 0."""
    noise = np.random.default_rng(seed).normal(size=count + 100) * math.sqrt(1 - phi**2)
    made: Floats = lfilter([1.0], [1.0, -phi], noise)[100:]
    return np.exp(0.5 * made) - math.exp(0.125) if skewed else made


def coverage(draws: list[Floats], truth: float, *, ordered: bool = True) -> float:
    """How often the 95 % interval holds the truth."""
    below = [estimated(one, ordered=ordered).confidence_below(truth) for one in draws]
    return sum(0.025 <= one <= 0.975 for one in below) / len(below)


def test_a_series_without_correlation_has_blocks_of_the_root_of_its_length() -> None:
    lengths = [block_length(correlated(0.0, 240, seed)) for seed in range(20)]
    assert sorted(lengths)[10] == 15
    assert block_length(np.ones(240)) == 15
    assert block_length(np.arange(4.0)) == 1


def test_the_length_grows_with_the_correlation_and_leaves_three_blocks() -> None:
    medians = [
        sorted(block_length(correlated(phi, 240, seed)) for seed in range(20))[10]
        for phi in (0.0, 0.8, 0.95)
    ]
    assert medians[0] < medians[1] < medians[2] <= 80


def test_the_length_is_twice_politis_and_whites() -> None:
    # For an AR(1), G = 2 phi / ((1 - phi)^3 (1 + phi)) and g(0) = 1 / (1 - phi)^2 for noise of
    # variance 1: the length is (3 / 2 n (2 phi / (1 - phi^2))^2)^(1/3).
    phi, count = 0.7, 20_000
    asked = (1.5 * count * (2 * phi / (1 - phi**2)) ** 2) ** (1 / 3)
    lengths = [block_length(correlated(phi, count, seed)) for seed in range(20)]
    assert asked < math.sqrt(count)
    assert sorted(lengths)[10] == pytest.approx(max(2 * asked, math.sqrt(count)), rel=0.1)


def test_the_spread_is_that_of_the_circular_blocks_sums() -> None:
    values = correlated(0.6, 200, 3)
    length = block_length(values)
    around = [*values, *values[: length - 1]]
    means = [float(np.mean(around[at : at + length])) for at in range(200)]
    blocks = 200 / length
    error = math.sqrt(float(np.var(means)) / (blocks - 1))
    found = estimated(values, resamples=20_000)
    assert found.standard_error == pytest.approx(error, rel=0.02)
    assert found.degrees == pytest.approx(blocks - 1)


def test_without_correlation_the_spread_is_the_closed_forms_on_average() -> None:
    draws = [correlated(0.0, 240, seed) for seed in range(60)]
    errors = [estimated(one).standard_error for one in draws]
    assert float(np.sqrt(np.mean(np.square(errors)))) == pytest.approx(1 / 240**0.5, rel=0.08)


@pytest.mark.parametrize(
    ("phi", "count", "least"),
    [(0.0, 60, 0.92), (0.0, 246, 0.92), (0.3, 60, 0.90), (0.6, 246, 0.90), (0.8, 246, 0.86)],
)
@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_of_correlated_series_hold_the_truth(
    phi: float, count: int, least: float, *, skewed: bool
) -> None:
    draws = [correlated(phi, count, seed, skewed=skewed) for seed in range(300)]
    assert coverage(draws, 0.0) >= least


def test_windows_taken_for_independent_would_hold_it_far_less_often() -> None:
    draws = [correlated(0.6, 246, seed) for seed in range(300)]
    assert coverage(draws, 0.0, ordered=False) < 0.75


@cache
def published(cell: str, series: str) -> Floats:
    """The values a token of the long quickstart's windows, but for the last, which is shorter."""
    (path,) = PUBLISHED.glob(f"*/tiny-mistral--{cell}/quality-stdlib-heldout-w256-default-*.json")
    record = json.loads(path.read_text())
    sums, tokens = (np.array(record["series"][name]) for name in (series, "window_tokens"))
    return np.asarray(sums / tokens)[:-1]


@pytest.mark.parametrize(("series", "windows"), [("window_nll", 120), ("window_kl_sum", 60)])
def test_on_code_intervals_of_stretches_hold_the_whole_texts_figure(
    series: str, windows: int
) -> None:
    values = published("nf4", series)
    stretches = [values[at : at + windows] for at in range(0, len(values) - windows + 1, 2)]
    blocks, single = (
        coverage(stretches, float(values.mean()), ordered=ordered) for ordered in (True, False)
    )
    assert blocks >= 0.9
    assert single <= 0.6


def test_five_blocks_are_given_students_quantiles() -> None:
    values = correlated(0.0, 25, 1)
    found = estimated(values, resamples=20_000)
    width = found.limit(0.975) - found.limit(0.025)
    closed = 2 * stats.t.ppf(0.975, 4) * found.standard_error
    assert width == pytest.approx(closed, rel=0.1)
    for share in (1e-5, 0.01, 0.3, 0.9, 0.9999):
        assert found.confidence_below(found.limit(share)) == pytest.approx(share, rel=0.05)


def test_equal_columns_are_resampled_once() -> None:
    """The statistics of a change and of one in per cent are given the same sums."""
    columns = [[1.0, 2.5, 3.0, 4.5, 0.5, 6.0], [1.5, 2.0, 3.5, 4.0, 1.0, 5.0]]
    seen: list[list[Floats]] = []

    def note(sums: Sequence[Floats]) -> Floats:
        seen.append([column for column in sums if len(column) > 6])
        return sums[0] - sums[1]

    found = [bootstrap(columns, note) for _ in range(2)]
    first, second = (arrays for arrays in seen if arrays)
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert found[0].value == found[1].value
