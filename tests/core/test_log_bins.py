"""Histograms on a logarithmic axis, as records keep them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qbench.core.log_bins import EDGES, counts_of, stored


def test_the_edges_are_quarters_of_powers_of_ten() -> None:
    assert np.allclose(EDGES, np.logspace(-9, 2, 45), rtol=1e-12)


def test_what_is_stored_is_read_again() -> None:
    counts = [3, *[0] * 44, 1]
    assert counts_of(stored(counts)) == counts


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        "text",
        stored([]),
        stored([0] * 46),
        stored([1] * 45),
        stored([1] * 45 + [-1]),
        {**stored([1] * 46), "lowest": -8},
        {**stored([1] * 46), "counts": [1] * 45 + ["1"]},
    ],
)
def test_other_histograms_are_none(found: Any) -> None:
    assert counts_of(found) is None
