"""The report as a markdown page: what to decide by first, then conditions, then details."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.report.conditions import conditions, parameters
from qbench.report.details import detail_tables
from qbench.report.difference_table import difference_table, how_decided
from qbench.report.failures import failures, valueless, warnings
from qbench.report.figures import NO_VALUE, NOT_MEASURED
from qbench.report.finetune_markdown import finetune_blocks, finetune_detail_blocks
from qbench.report.generations import generation_blocks
from qbench.report.markdown_parts import bullets, escape, words_table
from qbench.report.markdown_tables import legend_of_marks, table_source
from qbench.report.predicted import predicted_blocks
from qbench.report.rehearsals import BANNER, is_rehearsal, rehearsal_notes
from qbench.report.roofline import HOW_TO_READ
from qbench.report.selection import select
from qbench.report.summary import passed_over, summarise
from qbench.report.tables import decision_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.record import Record
    from qbench.report.failures import Warned
    from qbench.report.figures import Table
    from qbench.report.selection import Selection, TableRecords
    from qbench.report.tables import Decision

_HOW_TO_READ_DETAILS = (
    (
        "Latencies are medians over the processes of each process's figure; the lowest and "
        "highest process are the extremes of their medians; IQR is the distance between the "
        "quartiles of one process's samples."
    ),
    HOW_TO_READ,
    (
        "The 95 % interval of a change of perplexity is that of the table of differences: paired, "
        "over blocks of neighbouring windows. It says how far the change may stray on other text "
        "of this kind."
    ),
)
_UNITS = (
    "Units are binary: 1 KiB = 1,024 B, 1 MiB = 1,024 KiB, 1 GiB = 1,024 MiB. "
    "Lower is better in every column with marked values."
)


def render(records: Sequence[Record]) -> str:
    """The page, from records alone: the same records give the same page."""
    selection = select(records)
    suites = list(dict.fromkeys(table.suite for table in selection.tables))
    title = "Rehearsal" if is_rehearsal(records) else "Quantization report"
    blocks = [f"# {title}{': ' if suites else ''}{escape(', '.join(suites))}"]
    if is_rehearsal(records):
        blocks += [f"> **{escape(BANNER)}**", bullets(map(escape, rehearsal_notes(records)))]
    if not selection.tables:
        blocks.append("There are no records yet: `qbench run SUITE` takes them.")
        return _page(blocks)
    for table in selection.tables:
        blocks += _decision_blocks(table)
        blocks += _difference_blocks(table)
        blocks += finetune_blocks(table, several=len(selection.tables) > 1)
        blocks += predicted_blocks(table, several=len(selection.tables) > 1)
    notes = passed_over(selection)
    blocks += [bullets(notes)] if notes else []
    blocks += _failure_blocks(selection)
    blocks += _warning_blocks(selection)
    blocks += _condition_blocks(selection)
    blocks += _detail_blocks(selection)
    blocks += _log_blocks(selection)
    return _page(blocks)


def _page(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _decision_blocks(records: TableRecords) -> list[str]:
    decision = decision_table(records)
    if not records.cells:
        return [f"## {escape(decision.title)}", "There is no record of the untuned model."]
    return [
        f"## {escape(decision.title)}",
        escape(summarise(records, decision)),
        table_source(decision.table),
        bullets([*legend_of_marks(decision.table), *_missing_values(decision)]),
        "<details><summary>What the columns mean</summary>",
        bullets([*_legend(decision.table), _UNITS]),
        "</details>",
    ]


def _legend(table: Table) -> list[str]:
    """What the columns mean that have a definition."""
    return [
        f"**{escape(column.title)}**: {escape(column.definition)}"
        for column in table.columns
        if column.definition
    ]


def _difference_blocks(records: TableRecords) -> list[str]:
    """Whether each difference from the reference is real."""
    table = difference_table(records)
    if table is None:
        return []
    missing: dict[str, list[str]] = {}
    for row in table.rows:
        for column, figure in zip(table.columns, row.figures, strict=True):
            if figure.reason and figure.word != NOT_MEASURED:
                missing.setdefault(f"{row.label}: {figure.reason}", []).append(column.title)
    reasons = [escape(f"{', '.join(cells)}: {reason}") for reason, cells in missing.items()]
    return [f"### {escape(table.title)}", table_source(table), how_decided(), bullets(reasons)]


def _missing_values(decision: Decision) -> list[str]:
    """Why there is no number where there is no failure to explain it."""
    lines: dict[str, list[str]] = {}
    for row in decision.table.rows:
        for index, (column, figure) in enumerate(
            zip(decision.table.columns, row.figures, strict=True)
        ):
            compared = column.display == "change" and row.figures[index - 1].value is not None
            if figure.word == NO_VALUE or (figure.word == NOT_MEASURED and compared):
                text = f"no {column.title}: {figure.reason}"
                lines.setdefault(text, []).append(row.label)
    return [f"{escape(', '.join(labels))}: {escape(text)}" for text, labels in lines.items()]


def _failure_blocks(selection: Selection) -> list[str]:
    rows = [
        (one.cell, one.what, one.status, one.phase or NOT_MEASURED, one.reason)
        for one in failures(selection)
    ]
    if not rows:
        return ["## Failed and skipped", "None."]
    headings = ("cell", "not measured", "status", "phase", "reason")
    return ["## Failed and skipped", words_table(headings, rows)]


def _warning_blocks(selection: Selection) -> list[str]:
    found = warnings(selection)
    if not found:
        return []
    return ["## Warnings", bullets(_warned(one, selection) for one in found)]


def _warned(one: Warned, selection: Selection) -> str:
    if one.holds_for_all(selection):
        return f"all cells: {escape(one.text)}"
    items = {items for _, items in one.places}
    if len(items) == 1:
        shown = f"{', '.join(one.cells)} ({', '.join(items.pop())})"
    else:
        shown = ", ".join(f"{cell} ({', '.join(items)})" for cell, items in one.places)
    return f"{escape(shown)}: {escape(one.text)}"


def _condition_blocks(selection: Selection) -> list[str]:
    found = conditions(selection)
    blocks = ["## Conditions"]
    mixed = [one.name for one in found if one.mixed]
    if mixed:
        text = (
            f"**Records of one table were taken under different conditions**: {', '.join(mixed)}."
        )
        blocks.append(text)
    rows = []
    for one in found:
        for value, cells in one.values:
            rows.append((one.name, value, ", ".join(cells) if cells else "all"))
    blocks.append(words_table(("condition", "value", "cells"), rows))
    blocks.append("Parameters of the measurements:")
    blocks.append(words_table(("measurement", "item", "parameters"), parameters(selection)))
    return blocks


def _detail_blocks(selection: Selection) -> list[str]:
    blocks = ["## Details", bullets(_HOW_TO_READ_DETAILS)]
    for table in selection.tables:
        several = len(selection.tables) > 1
        level = "####" if several else "###"
        blocks += [f"### {escape(decision_table(table).title)}"] if several else []
        for detail in detail_tables(table):
            blocks += [f"{level} {escape(detail.title)}", table_source(detail)]
            blocks.append(bullets(_legend(detail)))
        blocks += generation_blocks(table, level)
        blocks += finetune_detail_blocks(table, level)
    missing = valueless(selection)
    if missing:
        blocks += ["### Without a value", bullets(_warned(one, selection) for one in missing)]
    return blocks


def _log_blocks(selection: Selection) -> list[str]:
    blocks = []
    for one in failures(selection):
        if one.log_tail:
            blocks.append(f"### Log of {escape(one.cell)}: {escape(one.what)}")
            blocks.append(_fenced(one.log_tail))
    return blocks


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"
