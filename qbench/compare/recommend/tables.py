"""All that is recommended of one table of records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.recommend.arms import arm_choices
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.recommend import recommend

if TYPE_CHECKING:
    from qbench.compare.recommend.budget import Budget
    from qbench.compare.recommend.recommend import Recommendation
    from qbench.compare.selection import TableRecords


def recommendations(
    records: TableRecords, budget: Budget | None = None
) -> tuple[Recommendation, ...]:
    """That of the untuned cells and that of the tuned models, as far as there are any."""
    untuned = choices(records, budget) if records.cells else None
    made = (untuned, arm_choices(records, budget))
    return tuple(recommend(one) for one in made if one is not None)
