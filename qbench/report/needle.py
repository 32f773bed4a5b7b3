"""Tables of needles: what each cell found by length and depth, and each length by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.items import batch_told, items, text_name
from qbench.core.page import Column, Figure, Table
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.report.cell_row import cell_row
from qbench.report.figures import (
    NOT_MEASURED,
    REFERENCE_WORD,
    change_with_interval,
    pool,
    with_interval,
)
from qbench.report.tasks import FLIP_COLUMNS, flip_figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record

NEEDLE = "needle"
RETRIEVAL, EXACT, LOSS = "needle.retrieval", "needle.exact", "needle.loss"
TITLE = "Needles found, by length and depth"


@dataclass(frozen=True)
class Grid:
    """What was found of the needles of some lengths, all else of which is the same."""

    name: str
    """The text, and what is to be found."""
    needles: int
    """At each length and depth."""
    lengths: tuple[int, ...]
    slugs: tuple[str, ...]
    """Of the item of each length."""
    depths: tuple[float, ...]
    """In percent, from the beginning of the haystack on."""
    found: tuple[tuple[CellRecords, dict[tuple[int, float], float]], ...]
    """Of each cell the share of the needles found, by length and depth; without those that the cell
    has no value for."""

    @property
    def table(self) -> Table:
        """A row for each cell and length, a column for each depth."""
        columns = (
            Column("length", "length", "exact", definition=_LENGTH),
            *(
                Column(
                    f"depth.{depth:g}",
                    f"depth {depth:g}",
                    "percent",
                    decimals=0,
                    definition="" if at else _DEPTH,
                    told_at_0=True,
                )
                for at, depth in enumerate(self.depths)
            ),
        )
        rows = [
            cell_row(
                cell,
                (Figure(float(length)), *(_share(found, length, depth) for depth in self.depths)),
            )
            for cell, found in self.found
            for length in self.lengths
            if any((length, depth) in found for depth in self.depths)
        ]
        title = f"{TITLE}: {self.name}, {self.needles} at each"
        return Table(title, "precision", columns, tuple(rows))


def needle_tables(records: TableRecords) -> list[Table]:
    """Every grid, then each length with intervals and flips."""
    return [
        *(grid.table for grid in needle_grids(records)),
        *(_length_table(records, slug, one) for slug, one in items(records, NEEDLE).items()),
    ]


def needle_grids(records: TableRecords) -> list[Grid]:
    """One for each group of items that differ in their length alone."""
    groups: dict[str, list[Record]] = {}
    for record in items(records, NEEDLE).values():
        rest = {name: one for name, one in record.item.params.items() if name != "length"}
        groups.setdefault(repr(sorted(rest.items())), []).append(record)
    grids = (_grid(records, group) for group in groups.values())
    return [grid for grid in grids if grid.found]


def _grid(records: TableRecords, group: Sequence[Record]) -> Grid:
    params = group[0].item.params
    lengths = {
        int(length): one
        for one in group
        if (length := as_number(one.item.params.get("length"))) is not None
    }
    found = []
    for cell in records.cells:
        shares = {
            (length, depth): share
            for length, one in lengths.items()
            for depth, share in _by_depth(cell.of(NEEDLE, one.item.slug)).items()
        }
        if shares:
            found.append((cell, shares))
    depths = {depth for _, shares in found for _, depth in shares}
    kind = ", words" if params.get("value") == "word" else ""
    chat = ", as a chat" if params.get("chat_template") else ""
    return Grid(
        name=f"{text_name(group[0])}{kind}{chat}",
        needles=int(as_number(params.get("needles")) or 0),
        lengths=tuple(sorted(lengths)),
        slugs=tuple(lengths[length].item.slug for length in sorted(lengths)),
        depths=tuple(sorted(depths)),
        found=tuple(found),
    )


def _by_depth(found: Sequence[Record]) -> dict[float, float]:
    """The share found at each depth; empty where no record tells."""
    for record in found:
        told = as_mapping(record.details.get("by_depth"))
        depths, shares = as_list(told.get("depth")), as_list(told.get("retrieval"))
        made = {
            depth: share
            for one, other in zip(depths, shares, strict=False)
            if (depth := as_number(one)) is not None and (share := as_number(other)) is not None
        }
        if record.status == "ok" and made:
            return made
    return {}


def _share(found: dict[tuple[int, float], float], length: int, depth: float) -> Figure:
    share = found.get((length, depth))
    return Figure(word=NOT_MEASURED) if share is None else Figure(share)


def _length_table(records: TableRecords, slug: str, record: Record) -> Table:
    base = records.reference.of(NEEDLE, slug) if records.reference else []
    rows = []
    for cell in records.cells:
        found = cell.of(NEEDLE, slug)
        if not found:
            continue
        if cell.reference:
            told = [Figure(word=REFERENCE_WORD)] * (1 + len(FLIP_COLUMNS))
            change = Figure(word=REFERENCE_WORD)
        else:
            flips = flip_figures(found, base, RETRIEVAL)
            told = [change_with_interval(found, base, RETRIEVAL), *flips.values()]
            change = change_with_interval(found, base, LOSS)
        count = as_number(found[0].details.get("items"))
        figures = (
            with_interval(found, RETRIEVAL),
            *told,
            pool(found, EXACT).figure,
            with_interval(found, LOSS),
            change,
            Figure(word=NOT_MEASURED) if count is None else Figure(count),
        )
        rows.append(cell_row(cell, figures))
    title = f"Needles: {slug}{batch_told(records, record)}"
    return Table(title, "precision", _COLUMNS, tuple(rows))


_LENGTH = "tokens of the prompt and of what may be written after it"
_DEPTH = "needles found, by the percent of the text that stands before the needle"
_PAIRED = "with the 95 % interval of the paired difference"
_COLUMNS = (
    Column(
        RETRIEVAL,
        "found",
        "number",
        decimals=3,
        definition="share of the needles, with its exact 95 % limits",
        intervals=True,
    ),
    Column(
        "change", "less the reference's", "number", decimals=3, definition=_PAIRED, intervals=True
    ),
    *FLIP_COLUMNS,
    Column(
        EXACT,
        "likeliest",
        "number",
        decimals=3,
        definition="share of the needles of whose value each token is the likeliest",
    ),
    Column(LOSS, "loss (nat/token)", "number", decimals=4, intervals=True),
    Column(
        "change.loss",
        "less the reference's loss",
        "number",
        decimals=4,
        definition=_PAIRED,
        intervals=True,
    ),
    Column("items", "needles", "exact"),
)
