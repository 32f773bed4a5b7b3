"""Quantiles and spread against numpy's; a clock that gives back what it timed."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qbench.measures.timing import Clock, iqr, quantile

times = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=40)


@given(times, st.floats(min_value=0, max_value=1))
def test_quantiles_are_numpys(found: list[float], share: float) -> None:
    assert math.isclose(
        quantile(found, share), np.quantile(found, share), rel_tol=1e-9, abs_tol=1e-9
    )


@given(times)
def test_the_interquartile_range_is_numpys(found: list[float]) -> None:
    upper, lower = np.percentile(found, [75, 25])
    assert math.isclose(iqr(found), upper - lower, rel_tol=1e-9, abs_tol=1e-6)


def test_the_clock_of_a_cpu_has_no_device_time() -> None:
    result, seconds, device_seconds = Clock("cpu").time(lambda: "done")
    assert result == "done"
    assert seconds > 0
    assert device_seconds is None
