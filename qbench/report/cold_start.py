"""Cold starts: the time of each phase, from disk and from the page cache one below the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.items import items_of
from qbench.core.page import Chart, Column, Figure, Heading, Table
from qbench.measures.cold_start.definitions import METRICS, PHASES, TOTAL
from qbench.report.cell_row import cell_row
from qbench.report.charts.memory import stacked
from qbench.report.figures import NOT_MEASURED, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

COLD_START = "cold_start"
TITLE = "Cold start"
FROM = {"disk": "disk", "page-cache": "page cache"}
"""Where the model's files were, as pages say it."""
_DEFINED = {one.name: one for one in METRICS}
_HOW = "how_weights_came"
_CPU = "cold_start.weights.cpu"
_OVERVIEW = (
    "cold_start.from",
    TOTAL,
    *(f"cold_start.{one}" for one in ("imports", "cuda", "weights")),
)


def cold_start_tables(records: TableRecords) -> list[Table]:
    """A table for each length of the prompt, with a row for each cell and place of its files."""
    found = _by_prompt(records.cells)
    return [_table(records, slugs, title) for title, slugs in found.items()]


def cold_start_overview(records: TableRecords, level: int = 2) -> list[Part]:
    """The whole and the main phases: for a terminal, and before the details of a report."""
    parts: list[Part] = []
    for table in cold_start_tables(records):
        at = [
            index
            for index, each in enumerate(table.columns)
            if each.key in _OVERVIEW
            and any(row.figures[index].value or each.display == "text" for row in table.rows)
        ]
        parts += [Heading(table.title, level), table.with_columns(at)]
    return parts


def cold_start_charts(records: TableRecords) -> list[Chart]:
    """The phases of each cell one behind the other, a picture for each place of its files."""
    charts = []
    for slugs in _by_prompt(records.every).values():
        for slug, point in slugs.items():
            parts = [
                (cell.label, title, value)
                for cell in records.every
                for phase, title in PHASES.items()
                if (value := pool(cell.of(COLD_START, slug), f"cold_start.{phase}").figure.value)
            ]
            title = f"{TITLE} from the {_place(point)}, {_prompt(point)}"
            order = tuple(PHASES.values())
            made = stacked(title, "time", parts, order=order, display="seconds")
            charts += [] if made is None else [replace(made, caption=_CAPTION)]
    return charts


_CAPTION = (
    "Each bar is from the start of a process to its first token. Its parts are medians over the"
    " starts: together they may differ a little from the median of the whole."
)


def _by_prompt(cells: Sequence[CellRecords]) -> dict[str, dict[str, Record]]:
    """The items by the title of their table; within one those from disk first."""
    found: dict[str, dict[str, Record]] = {}
    for slug, record in items_of(cells, COLD_START).items():
        found.setdefault(f"{TITLE}, {_prompt(record)}", {})[slug] = record
    return found


def _table(records: TableRecords, slugs: dict[str, Record], title: str) -> Table:
    rows = [
        cell_row(cell, _figures(taken, point))
        for cell in records.cells
        for slug, point in slugs.items()
        if (taken := cell.of(COLD_START, slug))
    ]
    times = {TOTAL: "first token"}
    times |= {f"cold_start.{phase}": shown for phase, shown in PHASES.items()}
    columns = (
        Column("cold_start.from", "files in", "text"),
        Column("cold_start.starts", "starts", "text"),
        *(
            Column(name, shown, "seconds", definition=_meaning(name), shares_unit=True)
            for name, shown in times.items()
        ),
        Column(_CPU, "CPU time of weights", "seconds", definition=_meaning(_CPU), shares_unit=True),
        _bytes("cold_start.read_bytes", "read for the model"),
        _bytes("cold_start.read_bytes.libraries", "read before"),
        _bytes("cold_start.weight_bytes", "weights' files"),
        Column("cold_start.how", "weights are", "text"),
    )
    return Table(title, "precision", columns, tuple(rows))


def _figures(found: Sequence[Record], point: Record) -> tuple[Figure, ...]:
    total = pool(found, TOTAL)
    told = next((one.details[_HOW] for one in found if _HOW in one.details), NOT_MEASURED)
    names = (
        *(f"cold_start.{phase}" for phase in PHASES),
        _CPU,
        "cold_start.read_bytes",
        "cold_start.read_bytes.libraries",
        "cold_start.weight_bytes",
    )
    return (
        Figure(word=_place(point)),
        Figure(word=f"{total.succeeded} of {total.taken}"),
        total.figure,
        *(pool(found, name).figure for name in names),
        Figure(word=str(told)),
    )


def _bytes(name: str, title: str) -> Column:
    return Column(name, title, "bytes", definition=_meaning(name), shares_unit=True)


def _meaning(name: str) -> str:
    return _DEFINED[name].formula


def _place(record: Record) -> str:
    named = str(record.item.params.get("read_from"))
    return FROM.get(named, named)


def _prompt(record: Record) -> str:
    return f"{record.item.params.get('prompt_tokens')} prompt tokens"
