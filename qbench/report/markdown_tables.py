"""Typed tables as markdown, with the marks of their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.report.figures import NOT_MEASURED
from qbench.report.markdown_parts import aligned, escape

if TYPE_CHECKING:
    from qbench.report.figures import Column, Figure, Table
    from qbench.report.units import Scale


def table_source(table: Table) -> str:
    """A table as markdown, its columns aligned in the source."""
    scales = [table.scale(index) for index in range(len(table.columns))]
    headings = [escape(table.stub)]
    headings += [
        escape(heading(column, scale)) for column, scale in zip(table.columns, scales, strict=True)
    ]
    lines = []
    for row in table.rows:
        label = escape(row.label) + (" (reference)" if row.reference else "")
        cells = zip(row.figures, scales, strict=True)
        lines.append([label, *(_figure_source(figure, scale) for figure, scale in cells)])
    right = [at for at, column in enumerate(table.columns, 1) if column.display != "text"]
    return aligned(headings, lines, right)


def heading(column: Column, scale: Scale) -> str:
    """A column's title with its unit."""
    return f"{column.title} ({scale.symbol})" if scale.symbol else column.title


def _figure_source(figure: Figure, scale: Scale) -> str:
    if figure.value is None:
        return escape(figure.word or "")
    text = scale.text(figure.value)
    if figure.spread and not scale.is_nothing(figure.spread):
        text = f"{text} ± {scale.text(figure.spread)}"
    text = f"**{text}**" if figure.best else text
    return text + (" ≈" if figure.uncertain else "") + (" †" if figure.warned else "")


def legend_of_marks(table: Table) -> list[str]:
    """The legend of the marks that are used in this table."""
    figures = [figure for row in table.rows for figure in row.figures]
    words = {figure.word for figure in figures}
    marks = []
    if any(figure.best for figure in figures):
        marks.append(
            "**bold**: the best of its column, with all that are shown alike or not told apart from"
            " it; a perplexity that may be the reference's (≈) leaves that to the reference"
        )
    if any(figure.uncertain for figure in figures):
        marks.append("≈: the 95 % interval of the change, paired over windows, includes no change")
    if any(figure.warned for figure in figures):
        marks.append("†: see the warnings and failures below before using this number")
    if any(figure.spread for figure in figures):
        marks.append("±: standard deviation over the seeds, where the number is their mean")
    if NOT_MEASURED in words:
        marks.append(f"`{NOT_MEASURED}`: not measured or not comparable")
    return marks
