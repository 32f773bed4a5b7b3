"""Generations side by side: each cell's beside the reference's, the first difference marked."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.compare.items import items, text_titles
from qbench.core.page import (
    Code,
    Column,
    Figure,
    Fold,
    Heading,
    Parted,
    SideBySide,
    Table,
    Words,
)
from qbench.core.untrusted import visible
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, pool, share_figure, with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

MEASUREMENT = "generation"
MARK = "⟂"
"""Stands in a text before the first character that is not the reference's."""
_PROMPTS_SHOWN = 8
_PROMPT_END_SHOWN = 240
"""Characters of the end of a prompt."""
_TEXT_SHOWN = 1200
"""Characters of a generated text."""
_AFTER_DIFFERENCE = 300
"""Characters that are shown behind the first difference, however late it is."""

_COLUMNS = (
    Column("identical", "as the reference", "percent", intervals=True),
    Column("prompts", "prompts", "exact"),
    Column("first_difference", "equal tokens before a difference (median)", "number", decimals=1),
    Column("generation.exact_match", "exact match", "percent", intervals=True),
    Column("generation.rougeL", "ROUGE-L", "number", decimals=3, intervals=True),
    Column("generation.chrf", "chrF", "number", decimals=2),
    Column("generation.bleu", "BLEU", "number", decimals=2),
    Column("generation.tokens", "tokens", "exact"),
)


@dataclass(frozen=True)
class Generated:
    """What one cell wrote, prompt by prompt."""

    prompts: tuple[str, ...]
    references: tuple[str, ...] | None
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Difference:
    """Where two continuations of one prompt part; both None where the tokens are the same."""

    token: int | None
    """Tokens that are equal before the first that is not; an end counts as a difference."""
    character: int | None
    """Characters that are equal before the first that is not; None where the texts are equal."""


def first_difference(own: Sequence[Any], base: Sequence[Any]) -> int | None:
    """Index of the first element that is not the same; None where all are.

    Where one is the beginning of the other, it is the length of the shorter.
    """
    for index, (mine, theirs) in enumerate(zip(own, base, strict=False)):
        if mine != theirs:
            return index
    return None if len(own) == len(base) else min(len(own), len(base))


def compare(own: Generated, base: Generated) -> list[Difference] | None:
    """Where each prompt's continuations part; None for other prompts than the base's."""
    if own.prompts != base.prompts:
        return None
    return [
        Difference(
            first_difference(own.ids[index], base.ids[index]),
            first_difference(own.texts[index], base.texts[index]),
        )
        for index in range(len(own.prompts))
    ]


def read_generated(record: Record | None) -> Generated | None:
    """What a record holds of generations; None if it holds none, or not all of it."""
    if record is None or record.status != "ok":
        return None
    details = record.details
    keys = ("prompts", "generated", "generated_ids")
    prompts, texts, ids = (details.get(key) for key in keys)
    if not (isinstance(prompts, list) and isinstance(texts, list) and isinstance(ids, list)):
        return None
    if not prompts or not len(prompts) == len(texts) == len(ids):
        return None
    if not all(isinstance(row, list | tuple) for row in ids):
        return None
    references = details.get("references")
    whole = isinstance(references, list) and len(references) == len(prompts)
    return Generated(
        prompts=tuple(map(str, prompts)),
        references=tuple(map(str, references)) if whole and references else None,
        texts=tuple(map(str, texts)),
        ids=tuple(tuple(row) for row in ids),
    )


def generation_tables(records: TableRecords) -> list[Table]:
    """One table an item: how far each cell follows the reference, and its scores."""
    found = items(records, MEASUREMENT)
    titles = text_titles(found)
    return [
        Table(
            f"Generation: {titles[slug]}",
            "precision",
            _COLUMNS,
            tuple(
                cell_row(cell, _figures(records, cell, slug))
                for cell in records.cells
                if cell.of(MEASUREMENT, slug)
            ),
        )
        for slug in found
    ]


def generation_parts(records: TableRecords, *, several: bool = False) -> list[Part]:
    """Parts of a page, a folded one for each prompt; none where nothing was generated.

    `several`: of more than one table.
    """
    where = f": {records.model} on {records.device}" if several else ""
    found = items(records, MEASUREMENT)
    titles = text_titles(found)
    return [
        part
        for slug in found
        for part in side_by_side(
            records.cells, slug, Heading(f"Generations side by side: {titles[slug]}{where}")
        )
    ]


def side_by_side(
    cells: Sequence[CellRecords],
    slug: str,
    heading: Heading,
    *,
    prompts_shown: int = _PROMPTS_SHOWN,
) -> list[Part]:
    """Parts of a page on one item; none where no cell generated anything.

    What the first of the cells wrote is what the others' are compared with, if it is the reference.
    """
    written = [
        (cell, generated)
        for cell in cells
        if (generated := read_generated(_record(cell, slug))) is not None
    ]
    if not written:
        return []
    first, base = written[0]
    alike = [(cell, one) for cell, one in written if one.prompts == base.prompts]
    parts: list[Part] = [heading, Words(_how_to_read(first.label, has_reference=first.reference))]
    parts += [
        _prompt(alike, index, has_reference=first.reference)
        for index in range(min(len(base.prompts), prompts_shown))
    ]
    more = len(base.prompts) - prompts_shown
    if more > 0:
        parts.append(Words(f"{more} more prompts are in the records."))
    others = [cell.label for cell, one in written if one.prompts != base.prompts]
    if others:
        text = f"Not shown, since they continued other prompts: {', '.join(others)}."
        parts.append(Words(text))
    return parts


def _figures(records: TableRecords, cell: CellRecords, slug: str) -> tuple[Figure, ...]:
    taken = cell.of(MEASUREMENT, slug)
    own = read_generated(_record(cell, slug))
    followed = _followed(own, None if cell.reference else records.reference, slug)
    return (
        followed[0],
        Figure(word=NOT_MEASURED) if own is None else Figure(float(len(own.prompts))),
        followed[1],
        *(
            with_interval(taken, column.key) if column.intervals else pool(taken, column.key).figure
            for column in _COLUMNS[3:]
        ),
    )


def _followed(
    own: Generated | None, reference: CellRecords | None, slug: str
) -> tuple[Figure, Figure]:
    """Share of prompts continued as the reference did; median of where the others part."""
    base = None if reference is None else read_generated(_record(reference, slug))
    if own is None or base is None:
        missing = Figure(word=NOT_MEASURED, reason="there is nothing to compare")
        return missing, missing
    found = compare(own, base)
    if found is None:
        missing = Figure(word=NOT_MEASURED, reason="the reference continued other prompts")
        return missing, missing
    parted = [one.token for one in found if one.token is not None]
    return (
        share_figure(len(found) - len(parted), len(found)),
        Figure(float(statistics.median(parted)))
        if parted
        else Figure(word=NOT_MEASURED, reason="there is no difference"),
    )


def _record(cell: CellRecords, slug: str) -> Record | None:
    return next(iter(cell.of(MEASUREMENT, slug)), None)


def _how_to_read(first: str, *, has_reference: bool) -> str:
    head = "The likeliest token each time. "
    if has_reference:
        return (
            f"{head}{MARK} stands before the first character that differs from what"
            f" {first} wrote; token positions count the equal tokens before it."
        )
    return f"{head}There is none of the reference, so nothing is compared."


def _prompt(
    written: Sequence[tuple[CellRecords, Generated]], index: int, *, has_reference: bool
) -> Fold:
    """A prompt's end, its reference text, the base's continuation and those that differ from it."""
    first, base = written[0]
    same, groups = [], dict[str, list[str]]()
    for cell, own in written[1:]:
        token = first_difference(own.ids[index], base.ids[index])
        if token is None:
            same.append(cell.label)
        else:
            where = f"{cell.label} (token {token})" if has_reference else cell.label
            groups.setdefault(own.texts[index], []).append(where)
    title = f"Prompt {index + 1}"
    if has_reference and len(written) > 1:
        title += f": {len(same)} of {len(written) - 1} as {first.label}"
    parts: list[Part] = [Code(visible(_tail(base.prompts[index])), "end of the prompt")]
    if base.references is not None:
        parts.append(Code(visible(_head(base.references[index])), "reference text"))
    named = {text: ", ".join(labels) for text, labels in groups.items()}
    if has_reference:
        parts.append(_parted(base.texts[index], ", ".join([first.label, *same]), named))
    else:
        parts.append(Code(visible(_head(base.texts[index])), ", ".join([first.label, *same])))
        parts += [Code(visible(_head(text)), label) for text, label in named.items()]
    return Fold(title, tuple(parts))


def _parted(base: str, title: str, others: dict[str, str]) -> SideBySide:
    """The reference's text beside the others, each shown long enough for where it differs."""
    shown, furthest = [], 0
    for text, label in others.items():
        at = first_difference(text, base)
        place = len(text) if at is None else at
        furthest = max(furthest, place)
        rest = _head(text[place:], max(_TEXT_SHOWN - place, _AFTER_DIFFERENCE))
        shown.append(Parted(label, visible(text[:place]), visible(rest)))
    most = max(_TEXT_SHOWN, furthest + _AFTER_DIFFERENCE)
    return SideBySide(title, visible(_head(base, most)), tuple(shown), MARK)


def _tail(text: str) -> str:
    return text if len(text) <= _PROMPT_END_SHOWN else f"…{text[-_PROMPT_END_SHOWN:]}"


def _head(text: str, most: int = _TEXT_SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
