"""Cells on the reference's own answers: how far they are from it, and where greedy text parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.items import against_merged, items
from qbench.core.page import Column, Figure, Heading, Table, Words
from qbench.core.unchecked import as_list, as_number
from qbench.measures.chat.metrics import METRICS, PARTS_AT, SAME_TEXT, survival
from qbench.report.cell_row import cell_row
from qbench.report.decision import change_figure
from qbench.report.figures import NO_VALUE, NOT_MEASURED, pool, with_interval
from qbench.report.over_length import means_by_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

CHAT = "chat"
TITLE = "Answers of the reference"
_DEFINED = {one.name: one for one in METRICS}
_PERPLEXITY = Column("chat.perplexity", "perplexity", "number", decimals=4)
_CHANGE = (
    Column("change", "change", "change"),
    Column("change.low", "95 % from", "change"),
    Column("change.high", "95 % to", "change"),
)
_FURTHER = (
    Column("chat.kl.mean", "KL mean", "number", "lower", decimals=6),
    Column("chat.kl.rounding", "of it rounding", "number", decimals=6),
    Column("chat.kl.p99", "p99", "number", decimals=4),
    Column("chat.kl.max", "max", "number", decimals=4),
    Column("chat.kl.reverse", "reverse KL", "number", "lower", decimals=6),
    Column("chat.top1_agreement", "same top token", "percent", "higher"),
    Column("chat.probability_change.mean", "change of p", "percent", decimals=3),
    Column(SAME_TEXT, "never part", "percent", "higher", intervals=True),
    Column(PARTS_AT, "parts after (tokens)", "number", "higher", decimals=0),
    Column("chat.tokens", "tokens scored", "exact"),
)
_OVERVIEW = ("chat.kl.mean", "chat.top1_agreement", SAME_TEXT, PARTS_AT)


def chat_titles(records: TableRecords) -> dict[str, str]:
    """By slug, what was asked and how it was answered, in words."""
    return {slug: _words(record) for slug, record in items(records, CHAT).items()}


def chat_table(records: TableRecords, slug: str) -> Table:
    """Perplexity of the answers with its change, divergence, and where greedy text parts."""
    rows = []
    for cell in records.cells:
        found = cell.of(CHAT, slug)
        if not found:
            continue
        change = change_figure(cell, records.reference, slug, (CHAT, _PERPLEXITY.key))
        compared = (
            Figure(value) if value is not None else Figure(word=NOT_MEASURED, reason=change.reason)
            for value in (change.value, change.low, change.high)
        )
        figures = (
            pool(found, _PERPLEXITY.key).figure,
            *compared,
            *(_figure(found, column) for column in _columns()),
        )
        rows.append(cell_row(cell, figures))
    title = f"{TITLE}: {chat_titles(records)[slug]}"
    return Table(title, "precision", (_PERPLEXITY, *_CHANGE, *_columns()), tuple(rows))


def place_table(records: TableRecords, slug: str) -> Table:
    """Mean KL of the answers' tokens by how many tokens of the answer are before them."""
    found = [
        (cell, means)
        for cell in records.cells
        if not cell.reference and (means := means_by_place(cell.of(CHAT, slug), "kl"))
    ]
    starts = sorted({start for _, means in found for start in means})
    columns = tuple(
        Column(f"place.{start}", f"{start:,}", "number", decimals=6) for start in starts
    )
    rows = tuple(
        cell_row(
            cell,
            (
                Figure(means[start]) if start in means else Figure(word=NOT_MEASURED)
                for start in starts
            ),
        )
        for cell, means in found
    )
    title = f"KL mean, by tokens of the answer before it, at least: {chat_titles(records)[slug]}"
    return Table(title, "precision", columns, rows)


def chat_parts(
    records: TableRecords, level: int = 2, charts: Sequence[Part] = (), *, whole: bool = False
) -> list[Part]:
    """A table with few columns for each set of prompts, behind its pictures if there are any.

    `whole`: what the tables mean is said below them.
    """
    tables = [chat_table(records, slug) for slug in items(records, CHAT)]
    if not tables:
        return []
    keys = [column.key for column in tables[0].columns]
    kept = [keys.index(key) for key in _OVERVIEW]
    parts: list[Part] = []
    for table in tables:
        parts += [Heading(table.title, level), *([] if parts else charts), table.with_columns(kept)]
    told = [*_why_nothing(records), *([_HOW_TO_READ] if whole else [])]
    return [*parts, *(Words(text, "quiet") for text in told)]


_HOW_TO_READ = (
    "The reference answered the prompts once; each cell reads prompt and answer, and its"
    " predictions of the answer's tokens are held against the reference's. An answer parts where"
    " the cell puts another token first: there its own greedy text would leave the reference's."
)


def _why_nothing(records: TableRecords) -> list[str]:
    """Why cells have no figures, in words, each reason once."""
    why: dict[str, list[str]] = {}
    for slug in items(records, CHAT):
        for cell in records.cells:
            figure = pool(cell.of(CHAT, slug), "chat.kl.mean").figure
            if figure.word == NO_VALUE and figure.reason:
                why.setdefault(figure.reason, []).append(cell.label)
    return [
        f"{', '.join(dict.fromkeys(cells))}: no divergence on answers: {reason}."
        for reason, cells in why.items()
    ]


def parted(cell: CellRecords, slug: str) -> list[tuple[int, float]] | None:
    """The share of a cell's answers that have not parted, by equal tokens; None if not known."""
    for record in cell.of(CHAT, slug):
        places = as_list(record.details.get("parts_at"))
        lengths = [as_number(one) for one in record.series.get("item_tokens", ())]
        known = [None if one is None else as_number(one) for one in places]
        if record.status != "ok" or not places or len(places) != len(lengths):
            continue
        if [one is None for one in places] != [one is None for one in known]:
            continue
        whole = [int(one) for one in lengths if one is not None]
        if len(whole) == len(lengths):
            return survival([None if one is None else int(one) for one in known], whole)
    return None


def longest_answer(records: TableRecords, slug: str) -> int:
    """Tokens of the longest answer."""
    lengths = (
        length
        for cell in records.cells
        for record in cell.of(CHAT, slug)
        for length in record.series.get("item_tokens", ())
    )
    return int(max(lengths, default=0))


def _columns() -> tuple[Column, ...]:
    return tuple(replace(one, definition=_DEFINED[one.key].formula) for one in _FURTHER)


def _figure(found: Sequence[Record], column: Column) -> Figure:
    if column.intervals:
        return with_interval(found, column.key)
    figure = pool(found, column.key).figure
    if column.key == PARTS_AT and pool(found, SAME_TEXT).figure.value is not None:
        # That most of the answers never part is no failure.
        return replace(figure, word=NOT_MEASURED) if figure.value is None else figure
    return figure


def _words(record: Record) -> str:
    """What was asked and how, as a title."""
    params = record.item.params
    text = params.get("text")
    name = text.get("name") if isinstance(text, dict) else record.item.slug
    words = [f"{params.get('count')} prompts of {name}"]
    if params.get("prompt_tokens") is not None:
        words.append(f"filled up to {params['prompt_tokens']} tokens")
    if params.get("temperature"):
        words.append(f"drawn at temperature {params['temperature']:g}")
    words.append(f"answers of at most {params.get('new_tokens')} tokens")
    if params.get("decoded"):
        words.append("decoded through the KV cache")
    if against_merged(record):
        words.append("against the same tuning merged in 16 bits")
    return ", ".join(words)
