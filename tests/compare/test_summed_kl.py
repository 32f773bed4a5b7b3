"""The summed KL of units of layers, with an interval over the windows that they share."""

from __future__ import annotations

import random

import pytest

from qbench.compare.summed_kl import summed_kl
from qbench.core.spec import PrecisionRef
from qbench.precisions.mixed.sensitivities import Cost, Sensitivities, Unit

WINDOWS, TOKENS = 40, 10


def make(windows: int, *, opposed: bool = False) -> Sensitivities:
    """Two units whose KL of a window rises together, or one's as the other's falls."""
    chance = random.Random(0)
    noise = [chance.gauss(0, 1) for _ in range(windows)]
    first = tuple(TOKENS * (1 + 0.1 * one) for one in noise)
    second = tuple(TOKENS * (2 + (-0.1 if opposed else 0.1) * one) for one in noise)
    units = tuple(
        Unit(
            name=name,
            layers=(name,),
            weights=1,
            plain_bytes=2,
            costs={"nf4": Cost(bytes=1, kl=sum(sums) / windows / TOKENS)},
        )
        for name, sums in (("a", first), ("b", second))
    )
    return Sensitivities(
        rest="bf16",
        formats={"nf4": PrecisionRef(label="nf4", name="nf4")},
        units=units,
        tokens=windows * TOKENS,
        window_tokens=(TOKENS,) * windows,
        window_kl_sums={"a": {"nf4": first}, "b": {"nf4": second}},
    )


def width(table: Sensitivities, *units: str) -> float:
    found = summed_kl(table, [(unit, "nf4") for unit in units])
    assert found is not None
    value, estimated = found
    assert value == pytest.approx(
        sum(one.costs["nf4"].kl or 0 for one in table.units if one.name in units)
    )
    assert estimated.estimate is not None
    low, high = (estimated.estimate.limit(share) for share in (0.025, 0.975))
    assert low <= value <= high
    return high - low


def test_an_interval_of_one_unit_and_of_several() -> None:
    table = make(WINDOWS)
    # 0.1 of one window, over 40 of them; of both 0.2, since they rise together.
    assert width(table, "a") == pytest.approx(2 * 1.96 * 0.1 / WINDOWS**0.5, rel=0.4)
    assert width(table, "a", "b") == pytest.approx(2 * width(table, "a"), rel=0.01)
    # What one has more the other has less, in each window.
    assert width(make(WINDOWS, opposed=True), "a", "b") < 1e-6


def test_what_was_not_measured_has_no_sum() -> None:
    table = make(WINDOWS)
    assert summed_kl(table, [("a", "nf4"), ("b", "fp4")]) is None
    assert summed_kl(table, []) is None


def test_few_windows_have_no_interval() -> None:
    found = summed_kl(make(8), [("a", "nf4")])
    assert found is not None
    assert found[1].estimate is None
    assert found[1].short_by == 12
