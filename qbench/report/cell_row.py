"""A cell's row in a table, called as the field calls its precision where that is not its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Row
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.compare.selection import CellRecords
    from qbench.core.page import Figure
    from qbench.core.spec import Cell


def cell_row(cell: CellRecords, figures: Iterable[Figure], *, faulty: bool = False) -> Row:
    """The row of a cell of a report."""
    called = called_in_words(cell.records[0].cell)
    return Row(cell.label, cell.reference, tuple(figures), faulty=faulty, called=called)


def called_in_words(cell: Cell) -> str | None:
    """What pages call an untuned cell whose label could be taken for another format's; else None.

    Of a precision with options, they follow its title.
    """
    held, label = precisions().get(cell.precision.name), cell.precision.label
    if held is None or not held.known_by_title or held.title is None or cell.tuning is not None:
        return None
    if label == held.name:
        return held.title
    rest = label.removeprefix(f"{held.name}-")
    return None if rest == label else f"{held.title}, {rest}"
