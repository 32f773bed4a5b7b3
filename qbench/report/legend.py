"""What the marks and columns of a table mean, and why a number is missing: for below the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.speed import LEGEND, marked_lines
from qbench.core.page import Fold, Heading, Mono, Strong, Words, bullets
from qbench.report.figures import NO_VALUE, NOT_MEASURED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Line, Part, Table

WHAT_COLUMNS_MEAN = "What the columns mean"
_SAYS_NOTHING = {
    "not measured",
    "the record does not hold this metric",
    "there is nothing to compare",
}


def legend_of_marks(table: Table) -> list[Line]:
    """The legend of the marks that are used in this table."""
    figures = [figure for row in table.rows for figure in row.figures]
    marks: list[Line] = []
    if any(figure.best for figure in figures):
        text = (
            ": the best of its column, with all that are shown alike or not told apart from it; a"
            " perplexity that may be the reference's (≈) leaves that to the reference"
        )
        marks.append((Strong("bold"), text))
    if any(figure.uncertain for figure in figures):
        marks.append("≈: the 95 % interval of the change, paired over windows, includes no change")
    marks += unlike_served_lines(table)
    if any(figure.warned for figure in figures):
        marks.append("†: see the warnings and failures below before using this number")
    if any(figure.spread for figure in figures):
        marks.append("±: standard deviation over the seeds, where the number is their mean")
    if any(figure.word == NOT_MEASURED for figure in figures):
        marks.append((Mono(NOT_MEASURED), ": not measured or not comparable"))
    return marks


def short_legend(table: Table, spread: str = "standard deviation over seeds") -> str:
    """The same in one line, with the marks of a terminal; `spread` says what ± is."""
    figures = [figure for row in table.rows for figure in row.figures]
    marks = []
    if any(figure.best for figure in figures):
        marks.append("* best of its column")
    if any(figure.uncertain for figure in figures):
        marks.append("~ may be no change")
    if any(figure.unlike_served for figure in figures):
        marks.append("≠ not as served")
    if any(figure.warned for figure in figures):
        marks.append("! has a warning")
    if any(figure.spread for figure in figures):
        marks.append(f"± {spread}")
    if any(figure.word == NOT_MEASURED for figure in figures):
        marks.append(f"{NOT_MEASURED} not measured")
    return "   ".join(marks)


def unlike_served_lines(
    table: Table, *, by_column: bool = False, told: set[str] | None = None
) -> list[str]:
    """Whose times are not those of their format as it is served, and why: each reason once.

    They are named by their rows, or by their columns. Reasons among `told` are left out, and those
    that are given are added to it: what stands on one page is told once.
    """
    told = set() if told is None else told
    rows: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for column, figure in zip(table.columns, row.figures, strict=True):
            if figure.unlike_served and figure.unlike_served not in told:
                name = column.title if by_column else row.label
                rows.setdefault(figure.unlike_served, {})[name] = None
    told.update(rows)
    return marked_lines(rows)


def unlike_served_in_short(table: Table) -> list[str]:
    """The same without the reasons, which the report has."""
    marked = any(figure.unlike_served for row in table.rows for figure in row.figures)
    return [f"≠: {LEGEND}; the report says why"] if marked else []


def definitions(table: Table) -> list[Line]:
    """What the columns mean that have a definition."""
    return [
        (Strong(column.title), f": {column.meaning}") for column in table.columns if column.meaning
    ]


def missing_values(table: Table) -> list[str]:
    """Why there is no number, where no failure explains it: each reason once, with its places."""
    places: dict[str, dict[str, list[str]]] = {}
    for row in table.rows:
        for column, figure in zip(table.columns, row.figures, strict=True):
            told = figure.word in {NO_VALUE, NOT_MEASURED, "undecided"}
            told = told or (figure.word is None and column.intervals)  # it has none
            if told and figure.reason and figure.reason not in _SAYS_NOTHING:
                reasons = places.setdefault(figure.reason, {})
                reasons.setdefault(column.title, []).append(row.label)
    return [
        f"{'; '.join(f'{title} of {_listed(labels, table)}' for title, labels in found.items())}:"
        f" {reason}"
        for reason, found in places.items()
    ]


def lacking_intervals(table: Table) -> list[str]:
    """Why there is no number, or no interval, in columns that have intervals."""
    return missing_values(
        table.with_columns([at for at, each in enumerate(table.columns) if each.intervals])
    )


def explained(table: Table, missing: Sequence[str], *more: str) -> list[Part]:
    """A table with its marks, what is missing in it, and what its columns mean."""
    return [
        table,
        bullets([*legend_of_marks(table), *missing]),
        Fold(WHAT_COLUMNS_MEAN, (bullets([*definitions(table), *more]),)),
    ]


def titled(table: Table, text: str = "", pictures: Sequence[Part] = ()) -> list[Part]:
    """A table below its title, with what is said of it; nothing where it has no rows."""
    if not table.rows:
        return []
    words = [Words(text)] if text else []
    told = [*unlike_served_lines(table), *missing_values(table)]
    return [Heading(table.title, 3), *pictures, table, *words, bullets(told)]


def _listed(labels: Sequence[str], table: Table) -> str:
    return "all" if len(labels) == len(table.rows) > 1 else ", ".join(labels)
