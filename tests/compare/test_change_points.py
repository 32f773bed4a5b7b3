"""Changes are found where they were made, and none where nothing changed beyond the stated rate."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from qbench.compare.estimates.change_points import FEWEST_POINTS, Points, find_changes

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHA = 0.04
COMMITS = 30
LINES = 6


def found(*series: list[float] | np.ndarray) -> list[list[int]]:
    made = [Points(tuple(range(len(one))), tuple(map(float, one))) for one in series]
    return find_changes(made, alpha=ALPHA)


def correlated(draws: np.random.Generator, correlation: float, lines: int) -> np.ndarray:
    own = draws.normal(size=(lines, COMMITS))
    made = own.copy()
    for at in range(1, COMMITS):
        made[:, at] = correlation * made[:, at - 1] + (1 - correlation**2) ** 0.5 * own[:, at]
    return made


NOISES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "heavy tails": lambda draws: draws.standard_t(2, size=(LINES, COMMITS)),
    "a machine in another state each run": lambda draws: (
        draws.normal(size=(LINES, COMMITS)) + draws.normal(0, 3, size=(1, COMMITS))
    ),
    "runs of one night are alike": lambda draws: (
        draws.normal(size=(LINES, COMMITS)) + np.repeat(draws.normal(0, 2, (1, 10)), 3, axis=1)
    ),
    "a machine that drifts": lambda draws: (
        0.5 * draws.normal(size=(LINES, COMMITS)) + correlated(draws, 0.5, 1)
    ),
}


@pytest.mark.parametrize("kind", NOISES)
def test_unchanged_histories_alarm_no_more_often_than_is_stated(kind: str) -> None:
    """Six lines each: 100 histories, and the stated share with its chance of 1 in 1,000."""
    alarms = sum(any(found(*NOISES[kind](np.random.default_rng(seed)))) for seed in range(100))
    assert alarms <= stats.binom.ppf(0.999, 100, 0.05)


def test_a_line_alone_that_drifts_alarms_no_more_often_either() -> None:
    """No other line helps to know how much neighbours are alike."""
    alarms = sum(any(found(*correlated(np.random.default_rng(at), 0.7, 1))) for at in range(200))
    assert alarms <= stats.binom.ppf(0.999, 200, 0.05)


@pytest.mark.parametrize("at", [4, 11, 15, 22, 26])
def test_a_change_is_found_at_its_place_and_in_its_line_alone(at: int) -> None:
    for seed in range(5):
        made = np.random.default_rng(seed).normal(0, 0.01, (LINES, COMMITS))
        made[3, at:] += 0.07
        assert found(*made) == [[]] * 3 + [[at]] + [[]] * 2


def test_what_comes_and_goes_is_two_changes() -> None:
    made = np.random.default_rng(1).normal(0, 0.01, 40)
    made[12:24] += 0.08
    quiet = np.random.default_rng(2).normal(0, 0.01, (3, 40))
    assert found(made, *quiet) == [[12, 24], [], [], []]


def test_a_year_of_nights() -> None:
    made = np.random.default_rng(4).normal(0, 0.01, (3, 365))
    made[0, 200:] += 0.06
    made[1, 100:180] += 0.06
    made[1, 300:310] -= 0.06
    assert found(*made) == [[200], [100, 180, 300, 310], []]


def test_outliers_are_no_changes_and_move_none() -> None:
    made = np.random.default_rng(2).normal(0, 0.01, COMMITS)
    made[-1] += 5
    assert found(made) == [[]]
    made[-1] -= 5
    made[17:] += 0.08
    made[13] += 0.3
    made[22] -= 0.3
    quiet = np.random.default_rng(3).normal(0, 0.01, (3, COMMITS))
    assert found(made, *quiet) == [[17], [], [], []]


def test_one_slow_run_at_the_end_is_no_change() -> None:
    """Though a run of two with it would stand out of 100 histories in 18."""
    alarms = 0
    for seed in range(100):
        made = np.random.default_rng(seed).normal(0, 0.01, COMMITS)
        made[-1] += 0.1
        alarms += any(found(made))
    assert alarms <= stats.binom.ppf(0.99, 100, 0.05)


def test_what_never_differs_has_not_changed() -> None:
    assert found([3.0] * COMMITS, [1.0] * 15 + [2.0] * 15) == [[], [15]]


def test_seven_points_tell_nothing() -> None:
    step = [0.0, 0.001, -0.001, 0.002, 9.0, 9.001, 8.999, 9.002]
    assert found(step) == [[4]]
    assert found(step[1:]) == [[]]
    assert len(step) == FEWEST_POINTS


def test_the_chance_is_that_of_all_orders() -> None:
    """Held against every order of eight numbers, of which neighbours are unlike."""

    def largest(orders: np.ndarray) -> np.ndarray:
        """By the definition: every run against the rest."""
        found = []
        for first in range(8):
            for end in range(first + 2, min(first + 6, 8) + 1):
                run = np.isin(np.arange(8), range(first, end))
                apart = np.abs(orders[:, run].mean(axis=1) - orders[:, ~run].mean(axis=1))
                within = 0.9 if first > 0 and end < 8 else 1.0
                found.append(within * apart * (run.sum() * (~run).sum() / 8) ** 0.5)
        return np.max(found, axis=0)

    told = []
    for shift in (0.5, 1.5, 2.5, 4.0):
        values = [0.0, 1.0, 0.1, 0.9, shift, shift + 1.0, shift + 0.2, shift + 0.8]
        orders = np.array(list(itertools.permutations(values)))
        chance = float(np.mean(largest(orders) >= largest(orders[:1]) - 1e-9))
        assert abs(chance - ALPHA) > 0.008  # far enough for the orders that are drawn
        assert any(found(values)) == (chance < ALPHA)
        told.append(chance < ALPHA)
    assert set(told) == {True, False}


def test_series_of_the_same_measurements_are_put_in_the_same_orders() -> None:
    """Twenty lines that are one line over again are tested as one; apart they are twenty."""
    step = np.random.default_rng(7).normal(0, 1, COMMITS)
    step[20:] += 4.0
    alone = found(step)
    assert alone == [[20]]
    assert found(*[step] * 20) == alone * 20
