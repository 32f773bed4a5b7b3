"""The decision table for a terminal: what most people decide by, within 80 columns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.items import TASKS, describe_point, first_windows, how_taken, items, text_titles
from qbench.compare.served import LINEAR_BITS, SERVED, STATIC
from qbench.core.page import Column, Figure
from qbench.report.costs import GENERATED
from qbench.report.decision import ENERGY
from qbench.report.figures import NOT_MEASURED, REFERENCE_WORD, with_interval
from qbench.report.needle import NEEDLE, RETRIEVAL, needle_grids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.page import Table
    from qbench.report.decision import Decision

_TASKS_SHOWN = 2
_NO_NUMBER = frozenset({NOT_MEASURED, REFERENCE_WORD, ""})
_KEPT: Mapping[str, tuple[str, int]] = {
    LINEAR_BITS: ("linear bits", 7),
    SERVED[LINEAR_BITS]: ("linear bits", 7),
    STATIC: ("", 0),
    SERVED[STATIC]: ("", 0),
    "memory.peak.inference": ("peak", 1),
    "memory.peak": ("", 1),
    "latency.prefill": ("prefill", 4),
    "latency.decode": ("decode/token", 2),
    ENERGY: ("", 8),
    GENERATED: ("", 2),
    "change": ("perplexity change", 0),
    "perplexity": ("perplexity", 3),
    "kl": ("KL", 5),
    "decoded.kl": ("KL decoded", 5),
    "memory.kv_cache": ("KV cache", 6),
}
"""Titles (the decision table's own where none is given), and which column is left out first; those
of further texts stand behind."""
_HELD_HERE = 9
_FURTHER_TEXT = 11
_TASK = 10
_TOLD_WITH_INTERVAL = frozenset({"change", "task"})


def overview_table(records: TableRecords, decision: Decision) -> Table:
    """The columns of the decision table that most is decided by.

    A column without a number, such as that of a measurement which nobody took, is left out. Those
    that a narrow terminal has no room for can be spared.
    """
    table = _with_tasks(decision.table, records)
    keys = {column.key for column in table.columns}
    chosen: list[int] = []
    columns = list(table.columns)
    for index, column in enumerate(columns):
        kind, _, slug = column.key.partition(":")
        if kind == "perplexity" and f"change:{slug}" in keys:
            continue  # the change tells more, in less room
        if kind == "memory.peak" and "memory.peak.inference" in keys:
            continue  # on a CPU the resident size decides nothing
        if kind == "task":
            columns[index] = replace(column, spare=_TASK + column.spare)
        elif kind in _KEPT:
            columns[index] = _briefly(column, kind, slug, decision.texts)
        else:
            continue
        if any(has_number(row.figures[index]) for row in table.rows):
            chosen.append(index)
    brief = replace(table, columns=tuple(columns)).with_columns(chosen)
    return _with_intervals(brief)


def has_number(figure: Figure) -> bool:
    """Whether it tells anything: a number, or how the attempt to take it ended."""
    return figure.value is not None or (figure.word or "") not in _NO_NUMBER


def what_it_shows(records: TableRecords, decision: Decision, table: Table) -> list[str]:
    """What the figures are of and what else its columns are called: a line for times, one for text.

    A point of the grid is told by its batch and the names that say its lengths, such as `pp512`.
    """
    point = decision.latency_point
    lines = []
    timed = _called(table, ("latency.prefill", "latency.decode"))
    if point and timed:
        taken = [f"batch {point.item.params.get('batch', '?')}", *how_taken(point)]
        lines.append("; ".join([*timed, ", ".join(taken)]))
    elif decision.memory_point:
        lines.append(f"peak: {describe_point(decision.memory_point)}")
    titles = text_titles(first_windows(items(records, "quality")))
    if titles:
        against = f" from {decision.reference}'s" if decision.reference else ""
        known = [f"perplexity of {', '.join(titles.values())}, change{against}"]
        lines.append("; ".join([*known, *_called(table, ("kl",))[:1]]))
    return lines


def _called(table: Table, kinds: Sequence[str]) -> list[str]:
    """The columns of these kinds with their other names."""
    return [
        f"{column.title} = {', '.join(column.also_called)}" if column.also_called else column.title
        for kind in kinds
        for column in table.columns
        if column.key.partition(":")[0] == kind
    ]


def _briefly(column: Column, kind: str, slug: str, texts: Sequence[str]) -> Column:
    title, spare = _KEPT[kind]
    title = title or column.title
    if kind == STATIC and column.better == "neither":  # beside that of the format as it is served
        spare = _HELD_HERE
    if slug and len(texts) > 1:
        title += column.title.removeprefix(column.title.split()[0])
        spare += _FURTHER_TEXT * texts.index(slug)
    decimals = 2 if kind.startswith(("change", "bits")) else column.decimals
    return replace(column, title=title, spare=spare, decimals=decimals)


def _with_intervals(table: Table) -> Table:
    """Changes and scores with the distance to the further end of their 95 % interval."""
    told = [column.key.partition(":")[0] in _TOLD_WITH_INTERVAL for column in table.columns]
    rows = []
    for row in table.rows:
        figures = [
            replace(one, spread=max(one.high - one.value, one.value - one.low))
            if is_told and one.value is not None and one.low is not None and one.high is not None
            else one
            for one, is_told in zip(row.figures, told, strict=True)
        ]
        rows.append(replace(row, figures=tuple(figures)))
    return replace(table, rows=tuple(rows))


def _with_tasks(table: Table, records: TableRecords) -> Table:
    """The table with the first score of the first tasks as further columns, and what was found.

    Of needles that is the share at the greatest length.
    """
    shown = [
        (kind, slug, name, f"{slug} {name.rsplit('.', 1)[-1]}", _FURTHER_TEXT * TASKS.index(kind))
        for kind in TASKS
        for slug, record in list(items(records, kind).items())[:_TASKS_SHOWN]
        for name in [metric.name for metric in record.metrics][:1]
    ]
    longest = max(needle_grids(records), key=lambda grid: grid.lengths[-1], default=None)
    if longest is not None:
        title = f"needles at {longest.lengths[-1]:,}"
        shown.append((NEEDLE, longest.slugs[-1], RETRIEVAL, title, 0))
    for kind, slug, name, title, spare in shown:
        column = Column(f"task:{name}", title, "number", decimals=3, spare=spare)
        figures = [with_interval(cell.of(kind, slug), name) for cell in records.cells]
        rows = tuple(
            replace(row, figures=(*row.figures, figure))
            for row, figure in zip(table.rows, figures, strict=True)
        )
        table = replace(table, columns=(*table.columns, column), rows=rows)
    return table
