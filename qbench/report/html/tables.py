"""Tables as they are shown in a browser: texts, what to sort by, what is told on request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.untrusted import in_one_line, visible
from qbench.report.figures import NOT_MEASURED, REFERENCE_WORD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.page import Column, Figure, Row, Table
    from qbench.core.units import Scale

FILTERED_FROM = 9
"""Rows from which on a table is offered to be filtered."""
_LONG_TABLE = 24
"""Rows from which on a table scrolls in a box of its own."""
_LONG_TEXT, _PROSE = 24, 80
"""Characters from which on a text is wrapped, and wrapped to lines of some length."""


@dataclass(frozen=True, slots=True)
class HeadView:
    """The heading of a column."""

    title: str
    unit: str
    classes: str
    definition: str


@dataclass(frozen=True, slots=True)
class CellView:
    """One figure as it is shown."""

    text: str
    sort: str
    """A number, or empty where there is none: sorted behind all others."""
    classes: str
    marks: tuple[tuple[str, str], ...] = ()
    """Words behind the figure, each with its class."""
    interval: str = ""
    """Its ends, in the unit of the column."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RowView:
    """One line."""

    label: str
    reference: bool
    faulty: bool
    cells: tuple[CellView, ...]


@dataclass(frozen=True, slots=True)
class TableView:
    """A whole table."""

    name: str
    """Says to whoever does not see it what it is of."""
    stub: str
    stub_classes: str
    heads: tuple[HeadView, ...]
    rows: tuple[RowView, ...]

    @property
    def is_filtered(self) -> bool:
        """Whether it has so many rows that a reader would search them."""
        return len(self.rows) >= FILTERED_FROM

    @property
    def is_long(self) -> bool:
        """Whether it is higher than a screen."""
        return len(self.rows) >= _LONG_TABLE

    @property
    def has_intervals(self) -> bool:
        """Whether any figure has an interval that may be shown below it."""
        return any(cell.interval for row in self.rows for cell in row.cells)


def table_view(table: Table, name: str) -> TableView:
    """The table in texts; `name` is its title or the heading above it."""
    scales = [table.scale(index) for index in range(len(table.columns))]
    columns = list(zip(table.columns, scales, strict=True))
    return TableView(
        name,
        visible(table.stub),
        "right" if table.stub_right else _width(row.shown for row in table.rows),
        tuple(_head(table, index, scale) for index, scale in enumerate(scales)),
        tuple(_row(row, columns) for row in table.rows),
    )


def _head(table: Table, index: int, scale: Scale) -> HeadView:
    column = table.columns[index]
    return HeadView(
        visible(column.title),
        scale.symbol,
        "right" if column.to_the_right else _column_width(table, index),
        visible(column.meaning),
    )


def _column_width(table: Table, index: int) -> str:
    if table.columns[index].display != "text":
        return ""
    return _width(row.figures[index].word or "" for row in table.rows)


def _width(texts: Iterable[str]) -> str:
    """The class of a column of texts, by the longest of them."""
    longest = max(map(len, texts), default=0)
    return "wide prose" if longest >= _PROSE else "wide" if longest >= _LONG_TEXT else ""


def _row(row: Row, columns: list[tuple[Column, Scale]]) -> RowView:
    cells = tuple(
        _cell(figure, column, scale)
        for figure, (column, scale) in zip(row.figures, columns, strict=True)
    )
    return RowView(visible(row.shown), row.reference, row.faulty, cells)


def _cell(figure: Figure, column: Column, scale: Scale) -> CellView:
    if figure.value is None or figure.word is not None:
        return _word(figure, column)
    text = scale.text(figure.value)
    marks: list[tuple[str, str]] = []
    told: list[str] = []
    if figure.spread and not scale.is_nothing(figure.spread):
        marks.append(("spread", f"± {scale.text(figure.spread)}"))
        told.append(f"± {scale.with_unit(figure.spread)}: standard deviation over the seeds")
    interval = _interval(figure, scale)
    if interval:
        told.append(f"95 % interval {interval} {scale.symbol}".rstrip())
    if figure.uncertain:
        marks.append(("unsure", "≈"))
        told.append("this may be no change at all")
    if figure.unlike_served:
        marks.append(("unlike", "≠ not as served"))
    if figure.warned:
        marks.append(("warned", "† warned"))
    classes = "best" if figure.best else _tone(figure)
    told += [figure.reason or "", figure.detail]
    detail = in_one_line("; ".join(filter(None, told)))
    return CellView(text, _sorted_by(figure.value), classes, tuple(marks), interval, detail)


def _word(figure: Figure, column: Column) -> CellView:
    """A text, or a word in the place of a number."""
    word = visible(figure.word or "")
    nothing = figure.value is None and word in (NOT_MEASURED, REFERENCE_WORD)
    failed = figure.value is None and column.display not in ("text", "mark", "estimate")
    classes = "none" if nothing else _tone(figure) or ("tone-bad" if failed and word else "")
    told = "; ".join(filter(None, (figure.detail, figure.reason or "")))
    interval = figure.detail if figure.low is not None else ""
    return CellView(
        word, _sorted_by(figure.value), classes, (), visible(interval), in_one_line(told)
    )


def _tone(figure: Figure) -> str:
    return "" if figure.tone == "plain" else f"tone-{figure.tone}"


def _interval(figure: Figure, scale: Scale) -> str:
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return ""
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return ""
    return f"{scale.text(figure.low)} to {scale.text(figure.high)}"


def _sorted_by(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)
