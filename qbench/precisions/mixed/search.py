"""Which format each unit of a model gets, so that the sum of their damages is least under a budget.

Every unit has a few choices, each with its bytes and its cost, and takes exactly one: the
multiple-choice knapsack problem (Sinha and Zoltners 1979, Operations Research 27(3), 503-515).
scipy's `milp`, which is HiGHS, solves it as an integer program. That the damages of a mix are the
sum of the single ones is an assumption: what a mix really costs is measured afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COST_SCALE = 1e4
"""HiGHS takes two sums for equal that lie 1e-6 apart: the largest cost is made this."""
_BYTE_SCALE = 1e3
"""HiGHS lets a constraint be broken by 1e-6: the largest difference of bytes is made this."""
_RELATIVE_GAP = 1e-7
"""From the least sum that there could be: what is measured is known far less well."""


class Choice(NamedTuple):
    """One way to hold a unit."""

    format: str | None
    """Label of the format; None leaves the unit in the type of the rest."""
    bytes: int
    cost: float
    """What is summed: none is below 0."""


class OverBudgetError(MeasurementError):
    """Not even the smallest choice of every unit fits."""

    def __init__(self, least_bytes: int, most_bytes: int) -> None:
        """What the smallest choices take, and what there is."""
        super().__init__(
            f"the smallest choices take {least_bytes:,} bytes, more than {most_bytes:,}"
        )
        self.least_bytes = least_bytes


def best_choices(choices: Mapping[str, Sequence[Choice]], most_bytes: int) -> dict[str, Choice]:
    """A choice for each unit: of those whose bytes are at most `most_bytes` the least summed cost.

    Neither the order of the units nor that of their choices matters. Raises `OverBudgetError` where
    nothing is small enough.
    """
    kept = {name: _undominated(choices[name]) for name in sorted(choices)}
    smallest = {name: of_unit[0] for name, of_unit in kept.items()}
    room = most_bytes - _bytes(smallest)
    if room < 0:
        raise OverBudgetError(_bytes(smallest), most_bytes)
    several = {name: of_unit for name, of_unit in kept.items() if len(of_unit) > 1}
    while several and room >= 0:
        taken = _solve(list(several.values()), room)
        found = smallest | dict(zip(several, taken, strict=True))
        over = _bytes(found) - most_bytes
        if over <= 0:
            return found
        room -= over  # by what HiGHS let pass
    return smallest


def _bytes(chosen: Mapping[str, Choice]) -> int:
    return sum(choice.bytes for choice in chosen.values())


def _undominated(choices: Sequence[Choice]) -> list[Choice]:
    """Those than which no other is as small and costs as little, from the fewest bytes on."""
    kept: list[Choice] = []
    for one in sorted(choices, key=lambda choice: (choice.bytes, choice.cost, choice.format or "")):
        if not kept or one.cost < kept[-1].cost:
            kept.append(one)
    return kept


def _solve(units: list[list[Choice]], room: int) -> list[Choice]:
    """The integer program: `room` is what the choices may take beyond the smallest of each unit."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    counts = [len(of_unit) for of_unit in units]
    more = np.array([one.bytes - of_unit[0].bytes for of_unit in units for one in of_unit], float)
    cost = np.array([one.cost for of_unit in units for one in of_unit])
    unit_of = np.repeat(np.arange(len(units)), counts)
    one_each = csr_array((np.ones(len(cost)), (unit_of, np.arange(len(cost)))))
    scale = _BYTE_SCALE / more.max()
    result = milp(
        cost * (_COST_SCALE / cost.max()),
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(more[None] * scale, -np.inf, room * scale),
        ],
        options={"mip_rel_gap": _RELATIVE_GAP},
    )
    if result.x is None:
        raise MeasurementError(f"no mix was found: scipy's milp says: {result.message}")
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    picked = [int(np.argmax(result.x[at : at + n])) for at, n in zip(starts, counts, strict=True)]
    return [of_unit[index] for of_unit, index in zip(units, picked, strict=True)]
