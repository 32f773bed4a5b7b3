"""The search for a mix, held against every assignment there is."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench.precisions.mixed.search import Choice, OverBudgetError, best_choices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Table = Mapping[str, Sequence[Choice]]


def bytes_of(chosen: Iterable[Choice]) -> int:
    return sum(choice.bytes for choice in chosen)


def cost_of(chosen: Iterable[Choice]) -> float:
    return sum(choice.cost for choice in chosen)


def least_cost(table: Table, most_bytes: int) -> float | None:
    """By trying all: None where nothing fits."""
    every = itertools.product(*table.values())
    return min((cost_of(one) for one in every if bytes_of(one) <= most_bytes), default=None)


COSTS = st.one_of(st.just(0.0), st.floats(1e-9, 2.0), st.sampled_from([1e-3, 1e-3 + 1e-9, 0.5]))
SIZES = st.one_of(st.integers(0, 40), st.integers(10**8, 10**9))


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, int]:
    """A few units with a few choices each, and a budget that some of them may fit."""
    names = draw(
        st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=5, unique=True)
    )
    table = {
        name: [
            Choice(label, size, cost)
            for label, (size, cost) in zip(
                (None, "nf4", "int8", "fp8"),
                draw(st.lists(st.tuples(SIZES, COSTS), min_size=1, max_size=4)),
                strict=False,
            )
        ]
        for name in names
    }
    sizes = [sum(pick(one.bytes for one in unit) for unit in table.values()) for pick in (min, max)]
    return table, draw(st.integers(max(0, sizes[0] - 3), sizes[1] + 3))


@settings(max_examples=150, deadline=None)
@given(tables())
def test_no_assignment_under_the_budget_costs_less(asked: tuple[Table, int]) -> None:
    table, most_bytes = asked
    least = least_cost(table, most_bytes)
    if least is None:
        with pytest.raises(OverBudgetError):
            best_choices(table, most_bytes)
        return
    found = best_choices(table, most_bytes)
    assert all(found[name] in unit for name, unit in table.items())
    assert bytes_of(found.values()) <= most_bytes
    largest = max(one.cost for unit in table.values() for one in unit)
    assert cost_of(found.values()) == pytest.approx(least, rel=1e-6, abs=1e-9 * largest)


@settings(max_examples=50, deadline=None)
@given(tables(), st.randoms())
def test_the_order_of_the_table_does_not_matter(
    asked: tuple[Table, int], shuffled: random.Random
) -> None:
    table, most_bytes = asked
    if least_cost(table, most_bytes) is None:
        return
    names = list(table)
    shuffled.shuffle(names)
    other = {name: shuffled.sample(table[name], len(table[name])) for name in names}
    assert best_choices(other, most_bytes) == best_choices(table, most_bytes)


def test_of_equal_units_the_same_ones_are_taken_whatever_the_order() -> None:
    unit = [Choice(None, 16, 0.0), Choice("nf4", 5, 0.01)]
    table = {f"model.layers.{index}": unit for index in range(6)}
    found = best_choices(table, 16 * 3 + 5 * 3)
    assert sorted(one.format or "" for one in found.values()) == ["", "", "", "nf4", "nf4", "nf4"]
    assert best_choices(dict(reversed(table.items())), 16 * 3 + 5 * 3) == found


def test_of_equally_good_choices_the_smaller_is_taken() -> None:
    table = {"a": [Choice(None, 16, 0.0), Choice("fp8", 8, 0.0), Choice("int8", 8, 0.0)]}
    assert best_choices(table, 100) == {"a": Choice("fp8", 8, 0.0)}


def test_what_no_choice_fits_is_told_with_the_least_there_could_be() -> None:
    table = {
        "a": [Choice(None, 16, 0.0), Choice("nf4", 5, 0.1)],
        "b": [Choice(None, 32, 0.0), Choice("nf4", 9, 0.1)],
    }
    assert bytes_of(best_choices(table, 14).values()) == 14
    with pytest.raises(OverBudgetError, match="take 14 bytes, more than 13") as told:
        best_choices(table, 13)
    assert told.value.least_bytes == 14


def test_a_model_of_many_layers_is_within_the_bound_of_fractions() -> None:
    """No fraction of a choice can be taken, so that a sum is above that of fractions: by little."""
    drawn = random.Random(0)
    table = {}
    for index in range(224):
        weights = drawn.choice([4096 * 4096, 4096 * 1024, 4096 * 14336])
        damage = drawn.lognormvariate(-6, 1.5)
        table[f"layer.{index}"] = [
            Choice(None, 2 * weights, 0.0),
            *(
                Choice(f"int{bits}", weights * (2 * bits + 1) // 16, damage * 4.0**-bits)
                for bits in (2, 3, 4, 5, 6, 8)
            ),
        ]
    weights = sum(unit[0].bytes for unit in table.values()) // 2
    most_bytes = weights * 9 // 16
    found = best_choices(table, most_bytes)
    assert bytes_of(found.values()) <= most_bytes
    assert cost_of(found.values()) >= (bound := least_of_fractions(table, most_bytes))
    assert cost_of(found.values()) < bound * 1.01


def least_of_fractions(table: Table, most_bytes: int) -> float:
    """What fractions of choices would cost: each saving of the convex hulls, the best first."""
    steps = []
    cost, room = 0.0, most_bytes
    for unit in table.values():
        hull: list[Choice] = []
        for one in sorted(unit, key=lambda choice: choice.bytes):
            while len(hull) > 1 and _slope(hull[-2], one) < _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(one)
        cost, room = cost + hull[0].cost, room - hull[0].bytes
        steps += [
            (_slope(before, after), after.bytes - before.bytes)
            for before, after in itertools.pairwise(hull)
        ]
    for slope, size in sorted(steps):
        taken = min(size, room)
        cost, room = cost + slope * taken, room - taken
    return cost


def _slope(before: Choice, after: Choice) -> float:
    return (after.cost - before.cost) / (after.bytes - before.bytes)
