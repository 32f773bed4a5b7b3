"""Curves as a line of blocks."""

from __future__ import annotations

import math

import pytest

from qbench.report.sparkline import GAP, LEVELS, downsample, sparkline


def test_each_level_stands_for_an_eighth() -> None:
    middles = [(level + 0.5) / 8 for level in range(8)]
    assert sparkline(middles, width=8, low=0.0, high=1.0) == LEVELS


def test_the_ends_are_the_lowest_and_the_highest() -> None:
    assert sparkline([5.0, 1.0], width=9, low=1.0, high=5.0) == "█▁"


def test_what_lies_beyond_the_ends_is_drawn_at_them() -> None:
    assert sparkline([-9.0, 9.0], width=2, low=0.0, high=1.0) == "▁█"


def test_a_flat_curve_is_drawn_low() -> None:
    assert sparkline([2.0] * 3, width=3, low=2.0, high=2.0) == "▁▁▁"


def test_more_values_than_characters_are_averaged_in_equal_runs() -> None:
    assert downsample([1.0, 3.0, 10.0, 20.0], 2) == [2.0, 15.0]
    assert len(downsample(list(map(float, range(100))), 32)) == 32


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
def test_every_value_counts_once(count: int) -> None:
    values = [float(value) for value in range(count)]
    runs = downsample(values, 32)
    assert len(runs) == min(count, 32)
    if count <= 32:
        assert runs == values
    assert runs == sorted(runs, key=lambda value: value or 0.0)


def test_what_is_not_finite_leaves_a_gap() -> None:
    assert downsample([1.0, math.nan, math.inf, math.nan], 2) == [1.0, None]
    assert sparkline([0.0, math.nan, 1.0], width=3, low=0.0, high=1.0) == f"▁{GAP}█"


def test_no_values_are_no_curve() -> None:
    assert sparkline([], width=32, low=0.0, high=1.0) == ""


def test_a_curve_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        downsample([1.0], 0)
