"""All that is recommended of one table of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.recommend.arms import arm_choices
from qbench.compare.recommend.budget import MINIMIZED
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.recommend import Recommendation, recommend
from qbench.compare.stated import NOTHING, Stated

if TYPE_CHECKING:
    from qbench.compare.recommend.choices import Choices
    from qbench.compare.selection import TableRecords


class Recommended(NamedTuple):
    """What is recommended of a table, each None where there is nothing to choose from."""

    untuned: Recommendation | None
    """Of the precisions of the untuned model."""
    tuned: Recommendation | None
    """Of the arms of its fine-tuning and the ways in which they were served."""

    @property
    def every(self) -> tuple[Recommendation, ...]:
        """Those that there are."""
        return tuple(one for one in self if one is not None)


def recommendations(records: TableRecords, stated: Stated = NOTHING) -> Recommended:
    """What to run of the untuned model, and what to train.

    Nothing where no cost was measured, or where there is one cell alone and no budget.
    """
    budget, price = stated.budget, stated.price
    several = len(records.cells) > 1 or (records.cells and budget is not None)
    made = (
        choices(records, budget, price) if several else None,
        arm_choices(records, budget, price),
    )
    return Recommended(
        *(recommend(one) if one is not None and _has_costs(one) else None for one in made)
    )


def _has_costs(one: Choices) -> bool:
    costs = [axis.key for axis in one.axes if axis.key in MINIMIZED]
    return any(cell.ranges[key].value is not None for cell in one.cells for key in costs)
