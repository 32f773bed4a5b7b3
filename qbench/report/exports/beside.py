"""One cell beside its reference, for readers: every figure in a row, with its interval."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.items import against_merged, items_of
from qbench.compare.selection import Selection
from qbench.core.page import Code, Column, Fold, Heading, Row, Table, Words, bullets, words_table
from qbench.report.conditions import conditions, parameters
from qbench.report.decision import decision_table
from qbench.report.failures import failures, warnings
from qbench.report.figures import NOT_MEASURED, REFERENCE_WORD, with_interval
from qbench.report.finetune.results import test_split_items
from qbench.report.legend import definitions, legend_of_marks, missing_values
from qbench.report.little import little_measured
from qbench.report.markdown import figure_words, heading
from qbench.report.tasks import task_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Line, Part
    from qbench.report.exports.chosen import ExportedCell

_SCORED = 2
"""Columns of a table of tasks before those of flips: the score, and its difference."""
_NOTHING = (REFERENCE_WORD, NOT_MEASURED)
"""Words of a row that tells nothing where it has no others."""


def beside_parts(exported: ExportedCell) -> list[Part]:
    """The table, what its marks mean, what is missing or warned of, and the conditions."""
    pair = _pair(exported)
    tables = list(_tables(pair))
    selection = Selection((pair,), pair.cells[0].records[0].protocol, 0, ())
    told: list[Line] = []
    for table in tables:
        told += [*legend_of_marks(table), *missing_values(table)]
    told += [f"{one.cell}: {one.what}: {one.status}: {one.reason}" for one in failures(selection)]
    told += [f"† {', '.join(one.cells)}: {one.text}" for one in warnings(selection)]
    meant = [line for table in tables for line in definitions(table)]
    rows = [
        (one.name, value, ", ".join(cells) or "all")
        for one in conditions(selection)
        for value, cells in one.values
    ]
    little = little_measured(record for cell in pair.cells for record in cell.records)
    return [
        _turned(tables, pair),
        *([] if little is None else [Words(little)]),
        bullets(dict.fromkeys(told)),
        Fold("What the rows mean", (bullets(dict.fromkeys(meant)),)),
        Fold(
            "Conditions",
            (
                words_table(("condition", "value", "cells"), rows),
                words_table(("measurement", "item", "parameters"), parameters(selection)),
            ),
        ),
    ]


def how_to_reproduce(exported: ExportedCell) -> list[Part]:
    """What a reader types to take the same again."""
    record = exported.cell.records[0]
    version = record.environment.qbench
    # Of a folder that is not installed no version is known.
    pinned = f"'qbench-llm=={version}'" if version.replace(".", "").isdecimal() else "qbench-llm"
    return [
        Heading("How to reproduce", 3),
        Words(
            "This card keeps what was measured and how, in a line that is not shown. From it come"
            " the suite, the versions and the commands that measure the same again, and which of"
            " the conditions are not met:"
        ),
        Code(
            f"pip install {pinned}\n"
            f"qbench reproduce README.md --only {exported.cell.slug} --to again\n"
            "bash again/reproduce.sh"
        ),
    ]


def _pair(exported: ExportedCell) -> TableRecords:
    """A table of the cell and its reference alone.

    What compares a tuned cell with its own merged model is no quality of another text.
    """
    cells = [exported.cell] if exported.reference is None else [exported.reference, exported.cell]
    return replace(exported.table, cells=tuple(cells), tuned=(), misfits=())


def _without_merged(cell: CellRecords) -> CellRecords:
    return replace(cell, records=tuple(one for one in cell.records if not against_merged(one)))


def _tables(pair: TableRecords) -> Iterator[Table]:
    main = replace(pair, cells=tuple(_without_merged(cell) for cell in pair.cells))
    yield _with_intervals(decision_table(main).table)
    yield from _with_the_merged(pair)
    if any(cell.tuning is not None for cell in pair.cells):
        yield from _of_the_tuning(pair)
    for table in task_tables(pair):
        score = table.title.partition(": ")[2]
        scored = table.with_columns(range(_SCORED))
        first, change = scored.columns
        titles = (score, f"{score}, less the reference's")
        columns = (replace(first, title=titles[0]), replace(change, title=titles[1]))
        yield replace(scored, columns=columns)


def _with_the_merged(pair: TableRecords) -> Iterator[Table]:
    """How far a tuned cell is from the same tuning merged in 16 bits."""
    for slug, record in items_of(pair.cells, "quality").items():
        if against_merged(record):
            column = Column(
                "kl.mean",
                "KL from the same tuning merged in 16 bits",
                "number",
                "lower",
                "mean divergence a token, in nats: what serving it in this way costs, apart from"
                " the tuning",
                decimals=5,
                intervals=True,
            )
            yield _one_column(pair, "quality", slug, column, "kl.mean")


def _of_the_tuning(pair: TableRecords) -> Iterator[Table]:
    """What it was tuned for: the loss on the test split, and scores of what is written for it."""
    for slug in items_of(pair.cells, "completion"):
        meaning = "mean loss on the completions of the test split, nat a token"
        column = Column(
            "completion.loss", f"loss on {slug}", "number", "lower", meaning, 4, intervals=True
        )
        yield _one_column(pair, "completion", slug, column, column.key)
    for slug in test_split_items(list(pair.cells)):
        found = [one for cell in pair.cells for one in cell.of("generation", slug)]
        names = dict.fromkeys(
            metric.name for one in found for metric in one.metrics if metric.better != "neither"
        )
        for name in names:
            column = Column(name, f"{name} on {slug}", "number", decimals=4, intervals=True)
            yield _one_column(pair, "generation", slug, column, name)


def _one_column(
    pair: TableRecords, measurement: str, slug: str, column: Column, metric: str
) -> Table:
    rows = (
        Row(cell.label, cell.reference, (with_interval(cell.of(measurement, slug), metric),))
        for cell in pair.cells
    )
    return Table("", "cell", (column,), tuple(rows))


def _with_intervals(table: Table) -> Table:
    """With intervals behind all figures, and none marked as the best of two."""
    rows = tuple(
        replace(row, figures=tuple(replace(figure, best=False) for figure in row.figures))
        for row in table.rows
    )
    columns = tuple(replace(column, intervals=True) for column in table.columns)
    return replace(table, columns=columns, rows=rows)


def _turned(tables: Sequence[Table], pair: TableRecords) -> Table:
    """The columns of all tables as rows: first this cell, then its reference."""
    cells = sorted(pair.cells, key=lambda cell: cell.reference)
    lines = []
    for table in tables:
        rows = {row.label: row for row in table.rows}
        for at, column in enumerate(table.columns):
            scale = table.scale(at)
            figures = [
                rows[cell.label].figures[at] if cell.label in rows else None for cell in cells
            ]
            if all(figure is None or figure.word in _NOTHING for figure in figures):
                continue
            words = ["" if one is None else figure_words(one, column, scale) for one in figures]
            lines.append([heading(column, scale), *words])
    titles = [f"{cell.label} (reference)" if cell.reference else cell.label for cell in cells]
    return words_table(("", *titles), lines, right=range(1, len(titles) + 1))
