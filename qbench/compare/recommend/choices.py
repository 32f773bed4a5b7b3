"""What each cell costs and loses, with intervals, and the limits on it: all that a choice needs.

A quantity of a cell is a range: its figure and the ends of its 95 % interval. A cell *meets* a
limit when its whole interval lies within it, *fails* when its whole interval lies beyond, and is
*undecided* else, or where it is not measured. See `qbench.compare.recommend.recommend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.price import of_any_device
from qbench.compare.recommend.axes import cost_axes_of, quality_axes
from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.limits import Limit, limits_of, minimized_of
from qbench.compare.recommend.ranges import Range, range_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.compare.price import Price
    from qbench.compare.recommend.axis import Axis
    from qbench.compare.selection import CellRecords, TableRecords

__all__ = ["Choice", "Choices", "Limit", "Range", "choices"]


@dataclass(frozen=True)
class Choice:
    """One cell."""

    label: str
    place: str
    """Names the cell within the whole report."""
    reference: bool
    faulty: bool
    """Whether it has layers that do not compute what they hold: it is never chosen."""
    ranges: Mapping[str, Range]
    """By axis key; one for each axis."""
    warnings: tuple[str, ...] = ()
    """Of its records, each once."""
    words: str = ""
    """What to do, where the label does not say it."""


@dataclass(frozen=True)
class Choices:
    """The cells of one table, what they are chosen by, and the limits on it."""

    title: str
    axes: tuple[Axis, ...]
    """What any cell has a figure of, or is limited: costs first, then qualities."""
    cells: tuple[Choice, ...]
    """In the order of the table, the reference first. Among equals the earlier one is chosen."""
    limits: Mapping[str, Limit]
    """By axis key."""
    minimize: str
    """Key of the axis that the best cell has the lowest value of."""
    kind: Literal["untuned", "tuned"] = "untuned"
    """Whether its cells are precisions of the untuned model, or tuned models."""

    def axis(self, key: str) -> Axis:
        """The axis of that key."""
        return next(axis for axis in self.axes if axis.key == key)


def choices(
    records: TableRecords, budget: Budget | None = None, price: Price | None = None
) -> Choices:
    """The untuned cells of a table with their ranges; without a budget the default one holds.

    What a budget limits or minimizes and no cell has measured is an axis of unknown ranges.
    """
    budget = budget or Budget()
    every = [
        *cost_axes_of(records.cells, price=price_of(budget, price), batch=budget.batch),
        *quality_axes(records),
    ]
    ranges = {
        cell.slug: {axis.key: range_of(axis, cell, records.reference) for axis in every}
        for cell in records.cells
    }
    by_definition = {axis.key for axis in every if axis.kind == "quality" and not axis.of_change}
    measured = {
        key
        for cell in records.cells
        for key, one in ranges[cell.slug].items()
        # that the reference does not diverge from itself was not measured
        if one.value is not None and not (cell.reference and key in by_definition)
    }
    limits, lacking = limits_of(records, budget, every, measured)
    minimize = minimized_of(budget, measured)
    kept = [*every, *lacking]
    shown = tuple(
        axis for axis in kept if axis.key in measured or axis.key in limits or axis.key == minimize
    )
    unknown = Range(None, None, None, "not measured")
    return Choices(
        title=records.title,
        axes=shown,
        cells=tuple(
            Choice(
                label=cell.label,
                place=cell.place,
                reference=cell.reference,
                faulty=cell.faulty,
                ranges={axis.key: ranges[cell.slug].get(axis.key, unknown) for axis in shown},
                warnings=warnings_of(cell),
            )
            for cell in records.cells
        ),
        limits=limits,
        minimize=minimize,
    )


def price_of(budget: Budget, price: Price | None) -> Price | None:
    """The price that holds: a budget's own goes before that of the suite."""
    return price if budget.price is None else of_any_device(budget.price).over(price)


def warnings_of(*cells: CellRecords) -> tuple[str, ...]:
    """The warnings of all records of the cells, each once."""
    every = (text for cell in cells for record in cell.records for text in record.warnings)
    return tuple(dict.fromkeys(every))
