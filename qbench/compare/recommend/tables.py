"""All that is recommended of one table of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.recommend.arms import arm_choices
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.recommend import Recommendation, recommend

if TYPE_CHECKING:
    from qbench.compare.recommend.budget import Budget
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


def recommendations(records: TableRecords, budget: Budget | None = None) -> Recommended:
    """What to run of the untuned model, and what to train."""
    untuned = choices(records, budget) if records.cells else None
    made = (untuned, arm_choices(records, budget))
    return Recommended(*(None if one is None else recommend(one) for one in made))
