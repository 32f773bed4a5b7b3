"""What went another way between two sides, score by score: the table of flips of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Column, Figure, Row, Table
from qbench.report.figures import figure_of
from qbench.report.tasks import FLIP_COLUMNS, figures_of_flips

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.compare import Row as ComparedRow

_COLUMNS = (
    Column("metric", "metric", "text"),
    Column("new", "new", "number", decimals=4, intervals=True),
    Column("old", "old", "number", decimals=4, intervals=True),
    *FLIP_COLUMNS,
    Column("items", "items", "exact"),
)
HOW_FLIPS_ARE_COUNTED = (
    "Right → wrong: the old side alone is right. Flips: both ways, of all items. Other answer:"
    " another one than the old side's, right or wrong. Intervals are of 95 %."
)


def flips_table(rows: Sequence[ComparedRow], *, everything: bool = True) -> Table | None:
    """The scores of right and wrong; without `everything` those of which any item flipped."""
    lines = []
    for row in rows:
        flips, levels = row.flips, row.levels
        if flips is None or levels is None or not (everything or flips.flips.new):
            continue
        figures = (
            Figure(word=row.metric),
            *map(figure_of, levels),
            *figures_of_flips(flips).values(),
            Figure(float(flips.items)),
        )
        lines.append(Row(row.cell.label, reference=False, figures=figures))
    return Table("Flips", "cell", _COLUMNS, tuple(lines)) if lines else None
