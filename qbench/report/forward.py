"""How the forward runs: each way of a cell beside its eager forward."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.differences import difference
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import FORWARD_PARAMS, describe_point, describe_way, items
from qbench.core.page import Column, Figure, Heading, Strong, Table, Words, bullets
from qbench.core.unchecked import as_list, as_mapping
from qbench.core.units import counted
from qbench.measures.forward.definitions import METRICS
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, pool
from qbench.report.legend import unlike_served_in_short, unlike_served_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

TITLE = "How the forward runs"
EAGER = "eager"
STEPS = ("decode", "prefill")
HOW_TO_READ = (
    "A ratio is the time of one way by that of the eager forward of the same cell, with its 95 %"
    " interval by Welch's t over the processes: below 1 it is faster. Prefill is compiled in none"
    " of them: what is compiled or captured is decode. Compiling is paid by each process that"
    " finds no compiled code on disk."
)
_IN_SHORT = (
    "by eager's: time by that of the eager forward of the same cell (95 % interval), below 1 faster"
)
_SHOWN_IN_SHORT = 5
"""Columns: the way, and two times with their ratios."""
_NO_EAGER = "the eager forward was not measured beside it; add `eager` to `forward`"
_DEFINED = {one.name: one for one in METRICS}


@dataclass(frozen=True)
class Ways:
    """The points of a grid that differ in how the forward runs alone."""

    title: str
    points: dict[str, Record]
    """By slug, the eager one first."""

    @property
    def eager(self) -> str | None:
        """The slug of the eager point that the others are held against."""
        return next(
            (slug for slug, one in self.points.items() if "forward" not in one.item.params), None
        )


def ways_of(records: TableRecords) -> list[Ways]:
    """One a size of the grid that was measured in several ways."""
    found: dict[str, dict[str, Record]] = {}
    for slug, point in items(records, "latency").items():
        rest = {key: at for key, at in point.item.params.items() if key not in FORWARD_PARAMS}
        found.setdefault(json.dumps(rest, sort_keys=True), {})[slug] = point
    return [
        Ways(describe_point(next(iter(each.values())), way=False), each)
        for each in found.values()
        if len(each) > 1
    ]


def forward_tables(records: TableRecords) -> list[Table]:
    """One row a cell and way, a table for each size."""
    return [_table(records, ways) for ways in ways_of(records)]


def forward_parts(records: TableRecords, charts: Sequence[Part] = ()) -> list[Part]:
    """The pictures and the tables; nothing where each size was measured in one way."""
    tables = [table for table in forward_tables(records) if table.rows]
    if not tables:
        return []
    parts: list[Part] = [Heading(TITLE, 3), *charts]
    for table in tables:
        parts += [Words((Strong(table.title),)), table, bullets(unlike_served_lines(table))]
    return [*parts, Words(HOW_TO_READ)]


def forward_overview(records: TableRecords) -> list[Part]:
    """The same for a terminal, the times and their ratios alone."""
    parts: list[Part] = []
    for table in forward_tables(records):
        if table.rows:
            told = [_IN_SHORT, *unlike_served_in_short(table)]
            narrow = table.with_columns(range(_SHOWN_IN_SHORT))
            parts += [Heading(f"{TITLE}: {table.title}"), narrow, bullets(told, "quiet")]
    return parts


def ratio_to_eager(cell: CellRecords, ways: Ways, slug: str, step: str) -> Figure:
    """A time by that of the eager forward, with its 95 % interval where it is known."""
    if slug == ways.eager:
        return Figure(1.0)
    mine = _timed(cell.of("latency", slug), step)
    theirs = [] if ways.eager is None else _timed(cell.of("latency", ways.eager), step)
    if not mine:
        return Figure(word=NOT_MEASURED)
    if not theirs:
        return Figure(word=NOT_MEASURED, reason=_NO_EAGER)
    sampling = Sampling()
    found = difference(mine, theirs, f"latency.{step}", relative=True, sampling=sampling)
    if found.plain is None:
        return Figure(word=NOT_MEASURED, reason=found.reason)
    low, high = found.ends(sampling.alpha / 2)
    return Figure(
        1 + found.plain,
        reason=found.reason,
        low=None if low is None else 1 + low,
        high=None if high is None else 1 + high,
    )


def _timed(found: Sequence[Record], step: str) -> list[Record]:
    return [one for one in found if one.status == "ok" and one.value(f"latency.{step}") is not None]


def _table(records: TableRecords, ways: Ways) -> Table:
    rows = [
        cell_row(cell, _figures(cell, ways, slug, point))
        for cell in records.cells
        for slug, point in ways.points.items()
        if cell.of("latency", slug)
    ]
    columns = [Column("latency.forward", "forward", "text")]
    for step in STEPS:
        columns += [
            Column(f"latency.{step}", step, "seconds", shares_unit=True),
            Column(f"latency.{step}.to_eager", "by eager's", "number", decimals=2, intervals=True),
        ]
    columns += [
        _metric("latency.compile", "compiling", "seconds"),
        _metric("latency.compile.memory", "its memory", "bytes"),
        Column("latency.graphs", "graphs", "text"),
        Column("latency.same_tokens", "tokens as eager", "text"),
        Column("latency.attention_ran", "attention ran", "text"),
    ]
    return Table(ways.title, "precision", tuple(columns), tuple(rows))


def _figures(cell: CellRecords, ways: Ways, slug: str, point: Record) -> tuple[Figure, ...]:
    found = cell.of("latency", slug)
    figures = [Figure(word=describe_way(point))]
    for step in STEPS:
        figures += [pool(found, f"latency.{step}").figure, ratio_to_eager(cell, ways, slug, step)]
    compiled = any(one.metric("latency.compile") for one in found)
    figures += [
        pool(found, name).figure if compiled else Figure(word=NOT_MEASURED)
        for name in ("latency.compile", "latency.compile.memory")
    ]
    return (*figures, *(Figure(word=word) for word in _words(found)))


def _words(found: Sequence[Record]) -> tuple[str, str, str]:
    """Graphs, tokens and attention, of the first process that tells."""
    details = next((one.details for one in found if one.status == "ok"), {})
    graphs = NOT_MEASURED
    if "graphs" in details:
        breaks = details.get("graph_breaks")
        graphs = str(details["graphs"]) + (f", {counted(breaks, 'break')}" if breaks else "")
    same = as_mapping(details.get("as_eager"))
    tokens = f"{same['same_tokens']} of {same['tokens']}" if same.get("tokens") else NOT_MEASURED
    ran = ", ".join(map(str, as_list(details.get("attention_ran"))))
    return graphs, tokens, ran or NOT_MEASURED


def _metric(name: str, title: str, display: str) -> Column:
    definition = _DEFINED[name].formula
    if display == "bytes":
        return Column(name, title, "bytes", definition=definition)
    return Column(name, title, "seconds", definition=definition)
