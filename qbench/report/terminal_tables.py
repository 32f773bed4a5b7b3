"""Typed tables for a terminal: in one piece, in several of whole columns, or with texts wrapped."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from qbench.core.page import interval_behind
from qbench.report.figures import NOT_MEASURED, REFERENCE_WORD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, JustifyMethod

    from qbench.core.page import Column, Figure, Row, Table, Tone
    from qbench.core.units import Scale

STYLES: dict[Tone, str] = {
    "plain": "",
    "quiet": "dim",
    "loud": "bold",
    "good": "green",
    "warned": "yellow",
    "bad": "bold red",
}
_PADDING = 2
"""Between columns: the left padding and the box's divider."""
_LEAST_LABEL = 12
"""Of a column of labels that are folded."""


class Fitted:
    """A table in one piece where the terminal is wide enough, else in several of whole columns.

    One that holds texts stays in one piece: they are wrapped. So does one with columns that can be
    spared: those that find no room are named below it.
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RichTable | Text]:
        shown = [at for at, column in enumerate(self.table.columns) if not column.below]
        if any(self.table.columns[at].display == "text" for at in shown):
            yield _wrapped(self.table, shown, options.max_width)
            return
        whole = _widest_label(self.table)
        least = _least_label(self.table, shown, options.max_width)
        kept = _kept(self.table, shown, options.max_width - least)
        left = options.max_width - _columns_width(self.table, kept)
        labels = min(whole, max(least, left))
        for indices in _pieces(self.table, kept, options.max_width - labels):
            yield _whole(self.table, indices, labels)
        if len(kept) < len(shown):
            left_out = [self.table.columns[at].title for at in shown if at not in kept]
            yield Text(f"no room for: {', '.join(left_out)}", style=STYLES["quiet"])


def _widest_label(table: Table) -> int:
    return max([cell_len(table.stub), *(cell_len(_label(row)) for row in table.rows)])


def _least_label(table: Table, shown: Sequence[int], width: int) -> int:
    """What labels take before a column is left out or put below: their own width, else a part.

    It is at most half of the terminal's, and leaves room for the columns that are never left out.
    """
    whole = _widest_label(table)
    if whole + _columns_width(table, shown) <= width:
        return whole
    never = [at for at in shown if not table.columns[at].spare]
    half = max(1, width // 2)
    if len(never) < len(shown):
        half = min(half, max(width - _columns_width(table, never), _LEAST_LABEL))
    return min(whole, half)


def _kept(table: Table, shown: Sequence[int], room: int) -> list[int]:
    """Those of the columns that are not spared for want of room."""
    kept = list(shown)
    while _columns_width(table, kept) > room:
        spared = max(kept, key=lambda at: table.columns[at].spare)
        if not table.columns[spared].spare:
            break
        kept.remove(spared)
    return kept


def _columns_width(table: Table, indices: Sequence[int]) -> int:
    return sum(_column_width(table, index) + _PADDING for index in indices)


def _pieces(table: Table, shown: Sequence[int], room: int) -> list[list[int]]:
    """Indices of the columns of each piece; every piece repeats the row labels."""
    pieces: list[list[int]] = [[]]
    left = room
    for index in shown:
        needed = _column_width(table, index) + _PADDING
        if pieces[-1] and needed > left:
            pieces.append([])
            left = room
        pieces[-1].append(index)
        left -= needed
    return pieces


def _column_width(table: Table, index: int) -> int:
    texts = [text.plain for text in _cells(table, index)]
    lines = _heading(table, index).plain.splitlines()
    return max(cell_len(text) for text in [*texts, *lines])


def _whole(table: Table, indices: Sequence[int], label_width: int) -> RichTable:
    """Some of the columns, each as wide as it needs to be."""
    shown = _empty()
    side = _side(right=table.stub_right)
    shown.add_column(table.stub, justify=side, width=label_width, overflow="fold")
    for index in indices:
        shown.add_column(
            _heading(table, index),
            justify=_side(right=_is_right(table.columns[index])),
            min_width=_column_width(table, index),
            vertical="bottom",
        )
    shown.columns[0].vertical = "bottom"
    return _filled(shown, table, indices)


def _wrapped(table: Table, indices: Sequence[int], width: int) -> RichTable:
    """All columns within the width: long texts take several lines, whole words if they can."""
    headings = [Text(table.stub), *(_heading(table, index) for index in indices)]
    labels = [Text(_label(row)) for row in table.rows]
    columns = [labels, *(_cells(table, index) for index in indices)]
    texts = [
        [heading.plain, *(cell.plain for cell in cells)]
        for heading, cells in zip(headings, columns, strict=True)
    ]
    room = width - _PADDING * len(indices)
    widths = _widths(
        [_widest(each, "\n") for each in texts], [_widest(each, None) for each in texts], room
    )
    right = [table.stub_right, *(_is_right(table.columns[index]) for index in indices)]
    shown = _empty()
    for heading, one, is_right in zip(headings, widths, right, strict=True):
        shown.add_column(heading, width=one, justify=_side(right=is_right), overflow="fold")
    return _filled(shown, table, indices)


def _widest(texts: Sequence[str], separator: str | None) -> int:
    """The longest line of the texts, or the longest word where the separator is None."""
    return max((cell_len(part) for text in texts for part in text.split(separator)), default=1) or 1


def _widths(whole: Sequence[int], words: Sequence[int], room: int) -> list[int]:
    """A width for each column: what it needs, else as much of the room as the others leave it.

    No column is narrower than its longest word while that can be.
    """
    level = max(whole)
    least = list(words)
    while level > 1 and sum(map(min, whole, [max(each, level) for each in least])) > room:
        level -= 1
    while max(least) > 1 and sum(map(min, whole, [max(each, level) for each in least])) > room:
        longest = max(least)
        least = [min(each, longest - 1) for each in least]
    return [min(each, max(word, level)) for each, word in zip(whole, least, strict=True)]


def _empty() -> RichTable:
    return RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        header_style="bold",
    )


def _filled(shown: RichTable, table: Table, indices: Sequence[int]) -> RichTable:
    columns = [_cells(table, index) for index in indices]
    for row, *cells in zip(table.rows, *columns, strict=True):
        shown.add_row(Text(_label(row)), *cells)
    return shown


def _side(*, right: bool) -> JustifyMethod:
    return "right" if right else "left"


def _is_right(column: Column) -> bool:
    """Where a table is cut into pieces of columns, short words stand as numbers do."""
    return column.display != "text" if column.right is None else column.right


def _heading(table: Table, index: int) -> Text:
    """The title broken at `/` and spaces, the unit below; as figures are, with a place for a mark.

    It takes no more room than the figures below it if it can: `bits/weight` becomes `bits/` above
    `weight`. That of texts is not broken.
    """
    column, symbol = table.columns[index], table.scale(index).symbol
    if column.display == "text":
        below = [each.title for each in table.columns if each.below == column.key]
        return Text(", ".join([column.title, *below]))
    pieces = re.findall(r"[^/\s]*/|[^/\s]+|\s+", column.title)
    figures = max((cell_len(text.plain) for text in _cells(table, index)), default=0)
    width = max([figures - 1, *map(cell_len, pieces), cell_len(symbol)])
    lines = [""]
    for piece in pieces:
        if cell_len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return Text("\n".join(f"{line.rstrip()} " for line in [*lines, *([symbol] if symbol else [])]))


def _label(row: Row) -> str:
    return f"{row.label} (ref)" if row.reference else row.label


def _cells(table: Table, index: int) -> list[Text]:
    """The figures of a column, each with those that stand below it."""
    column = table.columns[index]
    shown = [(at, each) for at, each in enumerate(table.columns) if each.below == column.key]
    scales = {at: table.scale(at) for at in (index, *(at for at, _ in shown))}
    cells = []
    for row in table.rows:
        lines = [_figure(row.figures[index], column, scales[index])]
        lines += [_dim(_figure(row.figures[at], each, scales[at])) for at, each in shown]
        cells.append(Text("\n").join(lines))
    return cells


def _dim(text: Text) -> Text:
    text.stylize("dim")
    return text


def _figure(figure: Figure, column: Column, scale: Scale) -> Text:
    """A figure with one place to its right for its mark, so that the digits stay aligned."""
    if figure.word is not None or figure.value is None:
        return Text(_word(figure, column), style=_word_style(figure, column))
    marks = {
        "*": figure.best,
        "~": figure.uncertain,
        "≠": figure.unlike_served,
        "!": figure.warned,
    }
    mark = "".join(sign for sign, is_so in marks.items() if is_so) or " "
    text = scale.text(figure.value)
    if figure.spread and not scale.is_nothing(figure.spread):
        text += f"±{replace(scale, signed=False).text(figure.spread)}"
    text += interval_behind(figure, column, scale)
    return Text(text + mark, style="bold green" if figure.best else STYLES[figure.tone])


def _word(figure: Figure, column: Column) -> str:
    word = figure.word or ""
    return word if column.display == "text" else f"{word} "


def _word_style(figure: Figure, column: Column) -> str:
    """A word where a number was to be is a failure, unless it is one of those that mean none."""
    if figure.tone != "plain" or figure.value is not None:
        return STYLES[figure.tone]
    if figure.word in (NOT_MEASURED, REFERENCE_WORD):
        return STYLES["quiet"]
    return STYLES["plain" if column.display in ("text", "mark", "estimate") else "bad"]
