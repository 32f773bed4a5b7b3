"""The decision table and what failed, for a terminal of 80 columns and more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from qbench.report.failures import failures, warnings
from qbench.report.figures import NOT_MEASURED
from qbench.report.finetune_qat import won_back, won_back_words
from qbench.report.finetune_qat_lacking import without_counterpart
from qbench.report.finetune_results import results_of
from qbench.report.finetune_table import arms_table, compact_table
from qbench.report.finetune_words import paragraph
from qbench.report.rehearsals import BANNER, is_rehearsal
from qbench.report.selection import select
from qbench.report.summary import passed_over, summarise
from qbench.report.tables import decision_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType

    from qbench.record import Record
    from qbench.report.figures import Column, Figure, Row, Table
    from qbench.report.selection import Selection, TableRecords
    from qbench.report.units import Scale

_REASON_LINES = 3
_NOT_RUN = ("skipped", "missing")
_PADDING = 2
"""Between columns: the left padding and the box's divider."""


def render(records: Sequence[Record]) -> RenderableType:
    """The decision table of each model, then what failed and what was passed over."""
    selection = select(records)
    if not selection.tables:
        return Text("There are no records yet: `qbench run SUITE` takes them.")
    banner = [Text(BANNER, style="bold yellow")] if is_rehearsal(records) else []
    parts: list[RenderableType] = [*banner]
    for records_of_table in selection.tables:
        decision = decision_table(records_of_table)
        parts.append(Text(decision.title, style="bold"))
        if records_of_table.cells:
            parts += [
                _Fitted(decision.table),
                Text(""),
                _marks(decision.table),
                Text(""),
                Text(summarise(records_of_table, decision)),
                Text(""),
            ]
        if records_of_table.tuned:
            parts += _finetune_parts(records_of_table)
    parts += _failure_parts(selection)
    parts += [Text(note, style="dim") for note in passed_over(selection)]
    return Group(*parts, *banner)


class _Fitted:
    """A table in one piece where the terminal is wide enough, else in several of whole columns."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichTable]:
        for indices in _pieces(self.table, options.max_width):
            yield _rich_table(self.table, indices)


def _pieces(table: Table, width: int) -> list[list[int]]:
    """Indices of the columns of each piece; every piece repeats the row labels."""
    widths = [_column_width(table, index) + _PADDING for index in range(len(table.columns))]
    labels = max((cell_len(_label(row)) for row in table.rows), default=0)
    room = width - max(labels, len(table.stub)) - _PADDING
    pieces: list[list[int]] = [[]]
    left = room
    for index, needed in enumerate(widths):
        if pieces[-1] and needed > left:
            pieces.append([])
            left = room
        pieces[-1].append(index)
        left -= needed
    return pieces


def _column_width(table: Table, index: int) -> int:
    scale = table.scale(index)
    column = table.columns[index]
    texts = [_figure_text(row.figures[index], column, scale).plain for row in table.rows]
    lines = _heading(table, index, scale).plain.splitlines()
    return max(cell_len(text) for text in [*texts, *lines])


def _rich_table(table: Table, indices: Sequence[int]) -> RichTable:
    shown = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        header_style="bold",
    )
    shown.add_column(table.stub, no_wrap=True, vertical="bottom")
    scales = {index: table.scale(index) for index in indices}
    for index in indices:
        width = _column_width(table, index)
        heading = _heading(table, index, scales[index])
        shown.add_column(heading, justify="right", min_width=width, vertical="bottom")
    for row in table.rows:
        figures = [
            _figure_text(row.figures[index], table.columns[index], scales[index])
            for index in indices
        ]
        shown.add_row(Text(_label(row)), *figures)
    return shown


def _heading(table: Table, index: int, scale: Scale) -> Text:
    """The title broken at `/` and spaces, the unit below; as figures are, with a place for a mark.

    `bits/weight` becomes `bits/` above `weight`.
    """
    words = table.columns[index].title.replace("/", "/ ").split()
    unit = [scale.symbol] if scale.symbol else []
    return Text("\n".join(f"{line} " for line in [*words, *unit]))


def _label(row: Row) -> str:
    return f"{row.label} (ref)" if row.reference else row.label


def _figure_text(figure: Figure, column: Column, scale: Scale) -> Text:
    """A figure with one place to its right for its mark, so that the digits stay aligned."""
    if figure.value is None:
        dim = figure.word in (NOT_MEASURED, "ref")
        loud = "" if column.display == "text" else "bold red"
        return Text(f"{figure.word or ''} ", style="dim" if dim else loud)
    mark = "*" if figure.best else "~" if figure.uncertain else "!" if figure.warned else " "
    if figure.warned and mark != "!":
        mark += "!"
    style = "bold green" if figure.best else ""
    text = scale.text(figure.value)
    if figure.spread and not scale.is_nothing(figure.spread):
        text += f"±{scale.text(figure.spread)}"
    return Text(text + mark, style=style)


def _marks(table: Table) -> Text:
    figures = [figure for row in table.rows for figure in row.figures]
    marks = []
    if any(figure.best for figure in figures):
        marks.append("* best of its column")
    if any(figure.uncertain for figure in figures):
        marks.append("~ the 95 % interval includes no change")
    if any(figure.warned for figure in figures):
        marks.append("! carries a warning")
    if any(figure.spread for figure in figures):
        marks.append("± standard deviation over seeds")
    if any(figure.word == NOT_MEASURED for figure in figures):
        marks.append(f"{NOT_MEASURED} not measured")
    return Text("   ".join(marks), style="dim")


def _finetune_parts(records: TableRecords) -> list[RenderableType]:
    """The arms in the columns that a terminal has room for."""
    results = results_of(records)
    table = compact_table(arms_table(results))
    compared = won_back(results)
    of_qat = f"{won_back_words(compared)} {without_counterpart(results, compared)}".strip()
    return [
        Text("Fine-tuning", style="bold"),
        _Fitted(table),
        Text(""),
        _marks(table),
        Text(""),
        Text(paragraph(results)),
        Text(""),
        *([Text(of_qat), Text("")] if of_qat else []),
    ]


def _failure_parts(selection: Selection) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for one in failures(selection):
        reason = one.reason.strip().splitlines()
        shown = " ".join(reason[:_REASON_LINES])
        line = Text.assemble(
            (one.status, "yellow" if one.status in _NOT_RUN else "bold red"),
            f"  {one.cell}, {one.what}",
            f" (while: {one.phase})" if one.phase else "",
            f": {shown}",
        )
        parts.append(line)
    for warned in warnings(selection):
        cells = "all cells" if warned.holds_for_all(selection) else ", ".join(warned.cells)
        parts.append(Text.assemble(("!", "yellow"), f"  {cells}: {warned.text}"))
    return [Text("Failed, skipped, warned of", style="bold"), *parts, Text("")] if parts else []
