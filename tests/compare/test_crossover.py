"""From how many rows on something is slower: against a search by hand, and a line by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.compare.crossover import crossover

RATIOS = st.dictionaries(
    st.integers(1, 4096),
    st.one_of(st.floats(0.01, 100), st.just(1.0)),
    min_size=1,
    max_size=12,
)


@given(RATIOS)
def test_as_a_search_by_hand_finds_it(ratios: dict[int, float]) -> None:
    found = crossover(ratios)
    assert found is not None
    # The first number of rows such that it and all that are more are slower.
    wanted = None
    for rows in sorted(ratios, reverse=True):
        if not ratios[rows] > 1:
            break
        wanted = rows
    if wanted is None:
        assert found.kind == "never"
    elif wanted == min(ratios):
        assert found.kind == "always"
    else:
        assert (found.kind, found.rows) == ("from", wanted)
    assert (found.reason is None) == (found.rows is not None) == (found.kind == "from")
    below = [rows for rows in ratios if ratios[rows] > 1 and rows < (wanted or math.inf)]
    assert sorted(found.earlier) == sorted(below) or found.kind == "always"
    assert (found.fewest, found.most) == (min(ratios), max(ratios))


@given(RATIOS)
def test_the_line_between_is_1_where_it_says(ratios: dict[int, float]) -> None:
    found = crossover(ratios)
    assert found is not None
    if found.rows is None or found.before is None or found.about is None:
        assert (found.rows, found.before, found.about) == (None, None, None)
        return
    assert found.before <= found.about <= found.rows
    place = math.log(found.about / found.before) / math.log(found.rows / found.before)
    height = (1 - place) * math.log(ratios[found.before]) + place * math.log(ratios[found.rows])
    assert height == pytest.approx(0, abs=1e-9)


def test_examples() -> None:
    found = crossover({1: 0.5, 4: 0.5, 16: 2.0, 64: 3.0})
    assert found is not None
    assert (found.rows, found.before, found.about) == (16, 4, pytest.approx(8))
    back = crossover({1: 2.0, 2: 0.9, 4: 1.5, 8: 0.8, 16: 1.1})
    assert back is not None
    assert (back.rows, back.earlier) == (16, (1, 4))
    always, never = crossover({1: 1.1, 8: 2.0}), crossover({1: 1.0, 8: 0.5})
    assert always is not None
    assert never is not None
    assert always.reason == "slower at every number of rows that was measured (1 to 8)"
    assert never.reason == "not slower at the most rows that were measured (1 to 8)"
    few = crossover({1: 2.0, 2: 1.5, 4: 0.9, 8: 0.8})
    mixed = crossover({1: 0.9, 2: 1.5, 4: 0.9})
    assert few is not None
    assert mixed is not None
    assert (few.kind, few.up_to, few.earlier) == ("never", 2, (1, 2))
    assert (mixed.kind, mixed.up_to, mixed.earlier) == ("never", None, (2,))
    assert never.up_to is None
    assert crossover({}) is None
