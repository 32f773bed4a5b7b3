"""The arms for a terminal: what each cost, gained and is against LoRA, within 80 columns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.report.finetune.table import arms_table
from qbench.report.overview_table import has_number

if TYPE_CHECKING:
    from qbench.core.page import Figure, Table
    from qbench.report.finetune.changes import Judged
    from qbench.report.finetune.results import Results

_KEPT = {
    "training.memory.peak": ("peak", 1),
    "training.step_time": ("step", 4),
    "completion.loss": ("test loss", 5),
    "gain": ("from untuned", 0),
    "against": ("", 3),
}
"""Titles, and which column is left out first."""


def arms_overview(results: Results) -> Table:
    """A row an arm, its seeds together; a column without a number is left out."""
    table = arms_table(results)
    arms = table.rows[len(results.untuned) :]
    columns = list(table.columns)
    chosen = []
    for index, column in enumerate(columns):
        if column.key not in _KEPT or not any(has_number(row.figures[index]) for row in arms):
            continue
        title, spare = _KEPT[column.key]
        decimals = 3 if column.key == "completion.loss" else column.decimals
        columns[index] = replace(
            column, title=title or column.title, spare=spare, decimals=decimals
        )
        chosen.append(index)
    brief = replace(table, columns=tuple(columns), rows=arms).with_columns(chosen)
    judged: dict[str, list[Judged | None]] = {
        "gain": [one.gain for one in results.arms],
        "against": [one.against for one in results.arms],
    }
    for index, column in enumerate(brief.columns):
        if column.key in judged:
            brief = _with_words(brief, index, judged[column.key])
    return brief


def _with_words(table: Table, index: int, judged: list[Judged | None]) -> Table:
    rows = []
    for row, one in zip(table.rows, judged, strict=True):
        figures = list(row.figures)
        figures[index] = _briefly(figures[index], one)
        rows.append(replace(row, figures=tuple(figures)))
    return replace(table, rows=tuple(rows))


def _briefly(figure: Figure, judged: Judged | None) -> Figure:
    """The change to three decimals of a nat, with its verdict."""
    if judged is None or figure.value is None or judged.verdict == "equal":
        return figure
    return replace(figure, word=f"{figure.value:+.3f} {judged.verdict}")
