"""Several suites or devices at once: one choice, and one table that says where each row is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.recommend.joint import join
from qbench.compare.recommend.recommend import recommend
from qbench.core.page import Column, Figure, Heading, Row, Table, Words, bullets
from qbench.report.figures import NOT_MEASURED
from qbench.report.recommendation import recommendation_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qbench.compare.recommend.axis import Axis
    from qbench.compare.recommend.choices import Range
    from qbench.compare.recommend.joint import Joint
    from qbench.compare.selection import TableRecords
    from qbench.compare.stated import Stated
    from qbench.core.page import Part

_OWN_DEVICE = (
    "Each row says where it was measured: times and peaks are those of that device, and a change is"
    " from the reference that was measured there."
)


def together_parts(
    tables: Sequence[TableRecords], stated: Mapping[str, Stated] | None = None
) -> Iterator[Part]:
    """What can be chosen from at once, by model; nothing where no two tables have a quantity."""
    for joint in join(tables, stated):
        yield Heading(f"Together: {joint.choices.title}")
        yield from recommendation_parts(recommend(joint.choices))
        yield _table(joint)
        yield Words(_OWN_DEVICE, "quiet")
        if joint.apart:
            yield Words("Not put together, as they do not compare:")
            yield bullets(joint.apart)


def _table(joint: Joint) -> Table:
    """All cells with the quantities that they share."""
    axes = joint.choices.axes
    columns = (
        Column("suite", "suite", "text"),
        Column("device", "device", "text"),
        *(_column(axis) for axis in axes),
    )
    rows = [
        Row(
            cell.label,
            reference,
            (
                Figure(word=place.suite),
                Figure(word=place.device),
                *(_figure(cell.ranges[axis.key]) for axis in axes),
            ),
            faulty=cell.faulty,
        )
        for cell, place, reference in zip(
            joint.choices.cells, joint.places, joint.references, strict=True
        )
    ]
    return Table("", "cell", columns, tuple(rows))


def _column(axis: Axis) -> Column:
    title = f"change of {axis.short}" if axis.of_change else axis.short
    return Column(axis.key, title, axis.display, axis.better, axis.title)


def _figure(known: Range) -> Figure:
    if known.value is None:
        return Figure(word=NOT_MEASURED, reason=known.reason)
    return Figure(known.value, low=known.low, high=known.high, reason=known.reason)
