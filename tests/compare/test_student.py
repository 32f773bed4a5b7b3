"""Student's t by its continued fraction, compared with scipy's."""

from __future__ import annotations

import math

import pytest
from scipy.special import stdtr, stdtrit

from qbench.compare.estimates.student import distribution, quantile

DEGREES = (1, 1.3, 2, 2.5, 3, 4.7, 10, 31, 99, 250, 1e3, 1e5, 3e6, math.inf)
SHARES = (
    1e-12,
    1e-9,
    1e-6,
    0.001,
    0.0125,
    0.05,
    0.0999,
    0.1001,
    0.2,
    0.4999,
    0.5,
    0.8,
    0.95,
    0.999,
)


@pytest.mark.parametrize("degrees", DEGREES)
def test_the_distribution_is_scipys(degrees: float) -> None:
    for t in (-50, -8, -3, -1.1, -0.2, -1e-5, 0, 0.4, 1, 2, 4, 9, 60):
        expected = float(stdtr(degrees, t))
        assert distribution(degrees, t) == pytest.approx(expected, rel=1e-9, abs=1e-300), t


@pytest.mark.parametrize("degrees", DEGREES)
def test_the_quantiles_are_scipys_and_the_inverse(degrees: float) -> None:
    for share in SHARES:
        found = quantile(degrees, share)
        assert found == pytest.approx(float(stdtrit(degrees, share)), rel=1e-9, abs=1e-9), share
        assert distribution(degrees, found) == pytest.approx(share, rel=1e-12)
        assert quantile(degrees, 1 - share) == pytest.approx(-found, rel=1e-4)


def test_a_published_quantile() -> None:
    """t of 12 degrees at 97.5 %, as the tables print it."""
    assert round(quantile(12, 0.975), 3) == 2.179


def test_at_the_ends_and_beyond() -> None:
    assert (quantile(5, 0), quantile(5, 1)) == (-math.inf, math.inf)
    assert quantile(40, 1e-300) == pytest.approx(float(stdtrit(40, 1e-300)), rel=1e-6)
    for degrees, share in ((0, 0.5), (-1, 0.5), (math.nan, 0.5), (5, 1.5), (5, math.nan)):
        assert math.isnan(quantile(degrees, share))
    assert math.isnan(distribution(0, 1))
    assert math.isnan(distribution(5, math.nan))
