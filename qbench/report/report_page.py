"""The whole report as a page: what to decide by first, then conditions, then details."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.items import items
from qbench.compare.recommend.tables import recommendations
from qbench.compare.selection import select
from qbench.compare.stated import NOTHING
from qbench.core.packed_records import pack
from qbench.core.page import (
    Charts,
    Code,
    Heading,
    Mono,
    Notice,
    Page,
    Strong,
    Words,
    bullets,
    words_table,
)
from qbench.report.charts.chat import chat_charts
from qbench.report.charts.forest import difference_charts
from qbench.report.charts.forward import forward_charts
from qbench.report.charts.kernels import kernel_charts
from qbench.report.chat import chat_parts
from qbench.report.cold_start import cold_start_overview
from qbench.report.conditions import conditions, parameters
from qbench.report.costs import cost_parts, cost_tables
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from qbench.report.differences import differences_of, how_decided, table_of
from qbench.report.energy import energy_parts
from qbench.report.failures import failures, valueless, warnings
from qbench.report.field_names import called_elsewhere
from qbench.report.figures import NO_VALUE, NOT_MEASURED
from qbench.report.finetune.section import finetune_details, finetune_parts
from qbench.report.forward import forward_parts
from qbench.report.frontier import frontier_parts
from qbench.report.generations import generation_parts
from qbench.report.interactions import interaction_parts
from qbench.report.kernels import kernel_parts
from qbench.report.legend import definitions, explained, lacking_intervals, unlike_served_lines
from qbench.report.little import little_measured
from qbench.report.pictures import picture_parts
from qbench.report.predicted import predicted_parts
from qbench.report.recommendation import recommended_parts, what_to_run
from qbench.report.rehearsals import BANNER, is_rehearsal, rehearsal_notes
from qbench.report.roofline import HOW_TO_READ
from qbench.report.sensitivity import sensitivity_parts
from qbench.report.serving import serving_overview
from qbench.report.summary import passed_over, summarise
from qbench.report.together import together_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qbench.compare.price import Price
    from qbench.compare.recommend.tables import Recommended
    from qbench.compare.selection import Selection, TableRecords
    from qbench.compare.stated import Stated
    from qbench.core.page import Line, Part
    from qbench.core.record import Record
    from qbench.report.decision import Decision
    from qbench.report.differences import Differences
    from qbench.report.failures import Failure, Warned

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
NO_RECORDS: Line = ("There are no records yet: ", Mono("qbench run SUITE"), " takes them.")
_UNITS = (
    "Units are binary: 1 KiB = 1,024 B, 1 MiB = 1,024 KiB, 1 GiB = 1,024 MiB. "
    "Lower is better in every column with marked values."
)


def report_page(records: Sequence[Record], stated: Mapping[str, Stated] | None = None) -> Page:
    """The page, from records and, by suite, what it states about their reading."""
    selection = select(records)
    suites = list(dict.fromkeys(table.suite for table in selection.tables))
    kind = "Rehearsal" if is_rehearsal(records) else "Quantization report"
    title = f"{kind}{': ' if suites else ''}{', '.join(suites)}"
    parts: list[Part] = []
    if is_rehearsal(records):
        parts += [Notice(BANNER), bullets(rehearsal_notes(records))]
    if not selection.tables:
        return Page(title, (*parts, Words(NO_RECORDS)))
    several = len(selection.tables) > 1
    holds = [(stated or {}).get(table.suite, NOTHING) for table in selection.tables]
    found = [
        (table, recommendations(table, one))
        for table, one in zip(selection.tables, holds, strict=True)
    ]
    parts += what_to_run(found) if several else []
    parts += together_parts(selection.tables, stated)
    for (table, recommended), own in zip(found, holds, strict=True):
        parts += _decision_parts(table, recommended, own.price)
        parts += _difference_parts(table)
        parts += kernel_parts(table, kernel_charts(table))
        parts += forward_parts(table, forward_charts(table))
        parts += cold_start_overview(table, 3)
        parts += serving_overview(table, 3)
        charts = tuple(chat_charts(table))
        parts += chat_parts(table, 3, [Charts(charts)] if charts else [], whole=True)
        parts += sensitivity_parts(table)
        parts += interaction_parts(table)
        parts += frontier_parts(table)
        parts += picture_parts(table)
        parts += energy_parts(table, own.co2)
        parts += cost_parts(table, own.price)
        parts += finetune_parts(table, recommended.tuned, own.price, several=several)
        parts += predicted_parts(table, several=several)
        parts += generation_parts(table, several=several)
    parts.append(bullets(passed_over(selection)))
    failed = failures(selection)
    parts += _failure_parts(failed)
    parts += _warning_parts(selection)
    parts += _condition_parts(selection)
    parts += _detail_parts(selection, [one.price for one in holds])
    parts += _log_parts(failed)
    return Page(title, tuple(parts), packed=pack(_measured(selection)))


def _measured(selection: Selection) -> list[Record]:
    """The records that the page shows."""
    cells = (cell for table in selection.tables for cell in table.every)
    return [record for cell in cells for record in cell.records]


def _decision_parts(
    records: TableRecords, recommended: Recommended, price: Price | None
) -> list[Part]:
    if not records.cells:
        return [Heading(records.title), Words("There is no record of the untuned model.")]
    decision = decision_table(records, price)
    return [
        Heading(records.title),
        *recommended_parts(recommended),
        *_little_parts(records),
        Words(summarise(records, decision)),
        *explained(decision.table, _missing_values(decision), _UNITS),
    ]


def _little_parts(records: TableRecords) -> list[Part]:
    told = little_measured(record for cell in records.cells for record in cell.records)
    return [] if told is None else [Words(told)]


def _difference_parts(records: TableRecords) -> list[Part]:
    """Whether each difference from the reference is real."""
    differences = differences_of(records)
    if differences is None:
        return []
    table = table_of(differences)
    cells: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        for column, figure in zip(table.columns, row.figures, strict=True):
            if figure.reason and figure.word != NOT_MEASURED:
                cells.setdefault((row.label, figure.reason), []).append(column.title)
    lines: dict[tuple[str, str], list[str]] = {}
    for (label, reason), found in cells.items():
        lines.setdefault((", ".join(found), reason), []).append(label)
    reasons = [f"{found}: {'; '.join(of)}: {reason}" for (found, reason), of in lines.items()]
    return [
        Heading(table.title, 3),
        *difference_charts(differences),
        table,
        Words(how_decided(differences)),
        bullets(
            [
                *unlike_served_lines(table, by_column=True),
                *reasons,
                *called_elsewhere(_metrics_of(differences, records)),
            ]
        ),
    ]


def _metrics_of(
    differences: Differences, records: TableRecords
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The metric of each line, with the parameters of its item."""
    for line in differences.lines:
        yield line.metric.name, items(records, line.item.measurement)[line.item.slug].item.params


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
    return [f"{', '.join(labels)}: {text}" for text, labels in lines.items()]


def _failure_parts(failed: Sequence[Failure]) -> list[Part]:
    rows = [
        (one.cell, one.what, one.status, one.phase or NOT_MEASURED, one.reason) for one in failed
    ]
    headings = ("cell", "not measured", "status", "phase", "reason")
    return [
        Heading("Failed and skipped"),
        words_table(headings, rows) if rows else Words("None."),
    ]


def _warning_parts(selection: Selection) -> list[Part]:
    found = warnings(selection)
    if not found:
        return []
    return [Heading("Warnings"), bullets(_warned(one, selection) for one in found)]


def _warned(one: Warned, selection: Selection) -> str:
    if one.holds_for_all(selection):
        return f"all cells: {one.text}"
    items = {items for _, items in one.places}
    if len(items) == 1:
        shown = f"{', '.join(one.cells)} ({', '.join(items.pop())})"
    else:
        shown = ", ".join(f"{cell} ({', '.join(items)})" for cell, items in one.places)
    return f"{shown}: {one.text}"


def _condition_parts(selection: Selection) -> list[Part]:
    found = conditions(selection)
    parts: list[Part] = [Heading("Conditions")]
    mixed = [one.name for one in found if one.mixed]
    if mixed:
        told = Strong("Records of one table were taken under different conditions")
        parts.append(Words((told, f": {', '.join(mixed)}.")))
    rows = [
        (one.name, value, ", ".join(cells) if cells else "all")
        for one in found
        for value, cells in one.values
    ]
    return [
        *parts,
        words_table(("condition", "value", "cells"), rows),
        Words("Parameters of the measurements:"),
        words_table(("measurement", "item", "parameters"), parameters(selection)),
    ]


def _detail_parts(selection: Selection, prices: Sequence[Price | None]) -> list[Part]:
    parts: list[Part] = [Heading("Details"), bullets(_HOW_TO_READ_DETAILS)]
    several = len(selection.tables) > 1
    level = 4 if several else 3
    why: set[str] = set()
    for table, price in zip(selection.tables, prices, strict=True):
        parts += [Heading(table.title, 3)] if several else []
        for detail in (*detail_tables(table), *cost_tables(table, price)):
            served = unlike_served_lines(detail, told=why)
            told = [*served, *definitions(detail), *lacking_intervals(detail)]
            parts += [Heading(detail.title, level), detail, bullets(told)]
        parts += finetune_details(table, level)
    missing = valueless(selection)
    if missing:
        listed = bullets(_warned(one, selection) for one in missing)
        parts += [Heading("Without a value", 3), listed]
    return parts


def _log_parts(failed: Sequence[Failure]) -> list[Part]:
    parts: list[Part] = []
    for one in failed:
        if one.log_tail:
            parts.append(Heading(f"Log of {one.cell}: {one.what}", 3))
            parts.append(Code(one.log_tail.rstrip()))
    return parts
