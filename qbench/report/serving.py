"""Cells behind servers under load: a table for each load, with a row for each cell and server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.compare.items import items_of
from qbench.core.options import typed_options
from qbench.core.page import Column, Figure, Heading, Table
from qbench.core.unchecked import as_mapping, as_number
from qbench.measures.serving.figures import METRICS
from qbench.measures.serving.options import LoadPoint
from qbench.measures.serving.servers import SERVING
from qbench.measures.serving.servers import server_of as server_in
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record
    from qbench.core.units import Display

TITLE = "Serving under load"
_DEFINED = {one.name: one for one in METRICS}
_SHOWN: tuple[tuple[str, str, Display], ...] = (
    ("ttft", "first token", "seconds"),
    ("ttft.p99", "first token, p99", "seconds"),
    ("tpot", "a token", "seconds"),
    ("itl", "between tokens", "seconds"),
    ("itl.p99", "between tokens, p99", "seconds"),
    ("e2e", "request", "seconds"),
    ("e2e.p99", "request, p99", "seconds"),
    ("output_throughput", "tokens/s", "number"),
    ("total_throughput", "with prompts", "number"),
    ("requests_per_s", "requests/s", "number"),
    ("goodput", "within objectives", "number"),
    ("concurrency", "at once", "number"),
    ("errors", "failed", "percent"),
    ("memory.peak", "server's memory", "bytes"),
    ("memory.device", "GPU", "bytes"),
    ("start", "start", "seconds"),
)
_SERVER, _ANSWERED, _TOKENS = "serving.server", "serving.answered", "serving.output_tokens"
_OVERVIEW = (
    _SERVER,
    "serving.ttft",
    "serving.ttft.p99",
    "serving.itl",
    "serving.output_throughput",
    "serving.errors",
    "serving.memory.peak",
)


def serving_tables(records: TableRecords) -> list[Table]:
    """A table for each load and lengths."""
    return [_table(records, title, slugs) for title, slugs in loads(records.cells).items()]


def serving_overview(records: TableRecords, level: int = 2) -> list[Part]:
    """The same with fewer columns: for a terminal, and before the details of a report."""
    parts: list[Part] = []
    for table in serving_tables(records):
        at = [index for index, column in enumerate(table.columns) if column.key in _OVERVIEW]
        parts += [Heading(table.title, level), table.with_columns(at)]
    return parts


def loads(cells: Sequence[CellRecords]) -> dict[str, dict[str, Record]]:
    """The items by the title of their table, that of the smallest load first."""
    found = sorted(items_of(cells, SERVING).items(), key=lambda entry: load_order(entry[1]))
    titled: dict[str, dict[str, Record]] = {}
    for slug, record in found:
        point = point_of(record)
        said = slug if point is None else f"{point.words}, {lengths(point)}"
        titled.setdefault(f"{TITLE}: {said}", {})[slug] = record
    return titled


def load_order(record: Record) -> tuple[int, int, bool, float]:
    """By lengths, then those that are under way at once by their number, then rates."""
    point = point_of(record)
    if point is None:
        return 0, 0, True, 0.0
    load = point.concurrency if point.rate is None else point.rate
    return point.prompt_tokens, point.output_tokens, point.rate is not None, float(load or 0)


def point_of(record: Record) -> LoadPoint | None:
    """The load of a record; None where its parameters are not those of one."""
    try:
        return typed_options(LoadPoint, record.item.params)
    except ValidationError:
        return None


def server_of(record: Record) -> str:
    """The server's name; the item's where its parameters do not say it."""
    try:
        return server_in(record.item.params).label
    except (ValidationError, KeyError):
        return record.item.slug


def lengths(point: LoadPoint) -> str:
    """The lengths in words."""
    return f"{point.prompt_tokens} prompt tokens, {point.output_tokens} new tokens"


def _table(records: TableRecords, title: str, slugs: dict[str, Record]) -> Table:
    rows = [
        cell_row(cell, _figures(taken, point))
        for cell in records.cells
        for slug, point in slugs.items()
        if (taken := cell.of(SERVING, slug))
    ]
    columns = (
        Column(_SERVER, "server", "text"),
        *(_column(f"serving.{name}", shown, display) for name, shown, display in _SHOWN),
        Column(
            _ANSWERED,
            "answered",
            "exact",
            definition="requests that were answered in the windows of all servers together",
        ),
        Column(_TOKENS, "tokens an answer", "number", definition="median of those answers"),
        Column("serving.versions", "version", "text"),
    )
    return Table(title, "precision", columns, tuple(rows))


def _column(name: str, title: str, display: Display) -> Column:
    return Column(
        name,
        title,
        display,
        better=_DEFINED[name].better,
        definition=_DEFINED[name].formula,
        shares_unit=display == "seconds" and name != "serving.start",
    )


def _figures(found: Sequence[Record], point: Record) -> tuple[Figure, ...]:
    good = [one.details for one in found if one.status == "ok"]
    answered = [
        as_number(as_mapping(as_mapping(each.get("requests")).get("window")).get("successful"))
        for each in good
    ]
    tokens = [
        as_number(as_mapping(as_mapping(each.get("tokens")).get("output_tokens")).get("median"))
        for each in good
    ]
    versions = dict.fromkeys(
        str(as_mapping(each.get("server")).get("version") or "not told") for each in good
    )
    return (
        Figure(word=server_of(point)),
        *(pool(found, f"serving.{name}").figure for name, _, _ in _SHOWN),
        _sum(answered),
        _least(tokens),
        Figure(word=", ".join(versions) or NOT_MEASURED),
    )


def _sum(counts: Sequence[float | None]) -> Figure:
    known = [count for count in counts if count is not None]
    return Figure(sum(known)) if known else Figure(word=NOT_MEASURED)


def _least(counts: Sequence[float | None]) -> Figure:
    known = [count for count in counts if count is not None]
    return Figure(min(known)) if known else Figure(word=NOT_MEASURED)
