"""The choice itself: what meets, what is best, and what tightening or shuffling cannot change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from qbench.compare.recommend.axis import Axis
from qbench.compare.recommend.choices import Choice, Choices, Limit, Range
from qbench.compare.recommend.recommend import Recommendation, recommend, relaxed_to

if TYPE_CHECKING:
    import random

SIZE = Axis("bytes", "static bytes", "static bytes", "bytes", "B", "lower", "cost", "f", None, "m")
LOSS = Axis(
    "loss", "loss", "loss", "change", "1", "lower", "quality", "q", None, "p", of_change=True
)
SCORE = Axis(
    "score", "score", "score", "number", "1", "higher", "quality", "t", None, "s", of_change=True
)
AXES = (SIZE, LOSS, SCORE)


def exact(value: float | None) -> Range:
    return Range(value, value, value, None if value is not None else "not measured")


def make(
    cells: dict[str, tuple[Range, Range, Range]],
    limits: dict[str, Limit],
    faulty: tuple[str, ...] = (),
) -> Choices:
    """Cells with their size, loss and score."""
    keys = [axis.key for axis in AXES]
    made = tuple(
        Choice(name, name, name == "a", name in faulty, dict(zip(keys, known, strict=True)))
        for name, known in cells.items()
    )
    return Choices("table", AXES, made, limits, "bytes")


def standings(found: Recommendation) -> dict[str, str]:
    return {one.cell.label: one.standing for one in found.candidates}


ONE_PER_CENT = {"loss": Limit(0.01, "max", "max_perplexity_increase")}


def test_the_whole_interval_decides() -> None:
    found = recommend(
        make(
            {
                "a": (exact(8), exact(0), exact(0)),
                "within": (exact(4), Range(0.002, 0.001, 0.01), exact(0)),
                "over": (exact(3), Range(0.009, 0.005, 0.0101), exact(0)),
                "beyond": (exact(2), Range(0.02, 0.0101, 0.03), exact(0)),
                "unknown": (exact(1), Range(0.001, None, None, "too few windows"), exact(0)),
                "absent": (exact(1), exact(None), exact(0)),
                "wrong": (exact(0.5), exact(0), exact(0)),
            },
            ONE_PER_CENT,
            faulty=("wrong",),
        )
    )
    assert found.best is not None
    assert found.best.cell.label == "within"
    assert standings(found) == {
        "within": "recommended",
        "a": "meets",
        "unknown": "undecided",
        "absent": "undecided",
        "over": "undecided",
        "beyond": "fails",
        "wrong": "faulty",
    }
    (check,) = next(one for one in found.candidates if one.cell.label == "beyond").checks
    assert check.beyond is not None
    assert math.isclose(check.beyond, 0.01)


def test_what_is_minimized_must_be_known() -> None:
    cells = {"a": (exact(None), exact(0), exact(0)), "b": (exact(3), exact(0), exact(0))}
    assert standings(recommend(make(cells, {}))) == {"b": "recommended", "a": "undecided"}


def test_among_equals_the_better_quality_then_the_earlier() -> None:
    cells = {
        "a": (exact(2), exact(0.005), exact(0)),
        "b": (exact(2), exact(0.001), exact(0)),
        "c": (exact(2), exact(0.001), exact(0)),
    }
    found = recommend(make(cells, ONE_PER_CENT))
    assert [one.cell.label for one in found.candidates] == ["b", "c", "a"]
    assert [one.told_apart for one in found.candidates] == [None, False, False]


def test_overlapping_intervals_are_not_told_apart() -> None:
    cells = {
        "a": (Range(1.0, 0.8, 1.2), exact(0), exact(0)),
        "b": (Range(1.3, 1.1, 1.5), exact(0), exact(0)),
        "c": (Range(1.6, 1.3, 1.9), exact(0), exact(0)),
        "d": (Range(1.7, None, None, "one process"), exact(0), exact(0)),
    }
    found = recommend(make(cells, {}))
    assert [one.told_apart for one in found.candidates] == [None, False, True, None]


def test_the_nearest_and_what_it_would_meet() -> None:
    limits = {**ONE_PER_CENT, "bytes": Limit(10, "max", "max_bytes")}
    cells = {
        "a": (exact(20), exact(0), exact(0)),  # twice the bytes: 1 beyond
        "b": (exact(9), Range(0.03, 0.02, 0.04), exact(0)),  # 3 beyond
        "c": (exact(13), Range(0.012, 0.011, 0.013), exact(0)),  # 0.3 beyond in both
        "d": (exact(1), exact(None), exact(0)),  # nobody knows how far
    }
    found = recommend(make(cells, limits))
    assert found.best is None
    assert found.nearest is not None
    assert found.nearest.cell.label == "c"
    assert {check.axis.key: relaxed_to(check) for check in found.nearest.checks} == {
        "bytes": 13,
        "loss": 0.013,
    }


def test_a_least_value_is_read_from_below() -> None:
    limits = {"score": Limit(-0.01, "min", "min_task")}
    cells = {
        "a": (exact(3), exact(0), Range(0.0, -0.01, 0.01)),
        "b": (exact(2), exact(0), Range(0.0, -0.02, 0.02)),
        "c": (exact(1), exact(0), Range(-0.03, -0.05, -0.02)),
    }
    found = recommend(make(cells, limits))
    assert standings(found) == {"a": "recommended", "b": "undecided", "c": "fails"}
    (check,) = found.candidates[1].checks
    assert relaxed_to(check) == -0.02


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Any that records can give: whole, without an interval, open above, or unknown."""
    low, value, high = sorted(draw(st.tuples(NUMBERS, NUMBERS, NUMBERS)))
    kind = draw(st.sampled_from(["whole", "exact", "no interval", "open", "unknown"]))
    return {
        "whole": Range(value, low, high),
        "exact": Range(value, value, value),
        "no interval": Range(value, None, None, "too few"),
        "open": Range(None, low, None, "oom"),
        "unknown": Range(None, None, None, "not measured"),
    }[kind]


@st.composite
def tables(draw: st.DrawFn) -> Choices:
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    cells = {name: draw(st.tuples(ranges(), ranges(), ranges())) for name in names}
    limits = {
        axis.key: Limit(draw(NUMBERS), "min" if axis is SCORE else "max", "test")
        for axis in AXES
        if draw(st.booleans())
    }
    faulty = tuple(name for name in names if draw(st.booleans()))
    return make(cells, limits, faulty)


def naively_meets(cell: Choice, limits: dict[str, Limit]) -> bool:
    for key, limit in limits.items():
        known = cell.ranges[key]
        end = known.high if limit.kind == "max" else known.low
        if end is None or (end > limit.bound if limit.kind == "max" else end < limit.bound):
            return False
    return not cell.faulty and cell.ranges["bytes"].value is not None


@given(tables())
def test_the_best_meets_everything_and_nothing_that_meets_is_better(choices: Choices) -> None:
    found = recommend(choices)
    meeting = [cell for cell in choices.cells if naively_meets(cell, dict(choices.limits))]
    assert sorted(cell.label for cell in choices.cells) == sorted(standings(found))
    assert {cell.label for cell in meeting} == {
        label for label, one in standings(found).items() if one in ("recommended", "meets")
    }
    assert (found.best is None) == (not meeting)
    if found.best is not None:
        least = min(cell.ranges["bytes"].value or 0.0 for cell in meeting)
        assert found.best.minimized.value == least


@given(tables(), st.floats(0, 1e6), st.sampled_from([axis.key for axis in AXES]))
def test_a_tighter_limit_never_lets_a_cell_in(choices: Choices, by: float, key: str) -> None:
    loose = choices.limits.get(key)
    if loose is None:
        return
    bound = loose.bound - by if loose.kind == "max" else loose.bound + by
    tight = replace(choices, limits={**choices.limits, key: replace(loose, bound=bound)})
    before, after = standings(recommend(choices)), standings(recommend(tight))
    for label, now in after.items():
        if now in ("recommended", "meets"):
            assert before[label] in ("recommended", "meets")
        if before[label] == "fails":
            assert now == "fails"


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_cells_does_not_matter(choices: Choices, shuffler: random.Random) -> None:
    cells = list(choices.cells)
    shuffler.shuffle(cells)
    mine, other = recommend(choices), recommend(replace(choices, cells=tuple(cells)))
    best = [one.minimized.value if one else None for one in (mine.best, other.best)]
    assert best[0] == best[1]
    alike = {"recommended": "meets"}
    assert {label: alike.get(one, one) for label, one in standings(mine).items()} == {
        label: alike.get(one, one) for label, one in standings(other).items()
    }


@given(tables())
def test_the_nearest_would_be_chosen_under_what_it_would_meet(choices: Choices) -> None:
    found = recommend(choices)
    nearest = found.nearest
    if nearest is None or any(check.range.value is None for check in nearest.checks):
        return
    loose = {
        check.axis.key: replace(check.limit, bound=bound)
        for check in nearest.checks
        if check.verdict != "meets" and (bound := relaxed_to(check)) is not None
    }
    again = recommend(replace(choices, limits={**choices.limits, **loose}))
    known = all(
        check.range.high is not None and check.range.low is not None for check in nearest.checks
    )
    if known and nearest.minimized.value is not None:
        assert standings(again)[nearest.cell.label] in ("recommended", "meets")
