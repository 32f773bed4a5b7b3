"""Whether mixes beat the formats that hold all layers alike, at their bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.frontier import BYTES, KL, frontier
from qbench.compare.items import against_merged, first_windows, items, text_titles
from qbench.core.page import Column, Figure, Fold, Heading, Row, Table, Words, bullets
from qbench.report.cell_row import cell_row
from qbench.report.charts.frontier import frontier_chart
from qbench.report.charts.together import group_of
from qbench.report.figures import NOT_MEASURED, figure_of, pool, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.frontier import Frontier, Match, Point
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Part

TITLE = "Mixes beside uniform formats"
_COLUMNS = (
    Column(BYTES, "static", "bytes", decimals=2),
    Column("bits_per_weight.linear", "linear bits", "number", decimals=2),
    Column(KL, "KL (nat)", "number", decimals=5, intervals=True),
    Column(
        "dominated",
        "dominated by",
        "text",
        definition="the cell of least KL of those that take no more bytes and have no more KL, by"
        " the figures alone",
    ),
)
_MATCHES = "Each mix against each format"
_MATCHED = (
    Column("rival", "against", "text"),
    Column("bytes", "which takes", "text", definition="bytes, beside the mix"),
    Column(
        "difference",
        "difference of KL (nat)",
        "number",
        decimals=5,
        definition="of the mix less that of the format, paired by windows, with its 95 % interval",
        intervals=True,
    ),
    Column("verdict", "the mix is", "text"),
)
_HOW_DECIDED = (
    "Beaten: the KL of the mix is lower by more than chance, by the difference paired over the"
    " windows of the text; all pairs are told together, at 5 % (Holm). Bytes are those of the whole"
    " model as it is held here."
)


def frontier_parts(records: TableRecords) -> list[Part]:
    """Each mix in a sentence, the picture and the table; nothing where there is no mix."""
    parts: list[Part] = []
    for slug, text, found in _found(records):
        parts += [
            Heading(f"{TITLE}: {text}", 3),
            bullets(verdicts(found)),
            *group_of("", [frontier_chart(found, slug, text)]),
            _table(found, slug, text),
            Words(_HOW_DECIDED),
            Fold(_MATCHES, (_match_table(found, text),)),
        ]
    return parts


def frontier_overview(records: TableRecords) -> list[Part]:
    """The sentences alone, for a terminal."""
    parts: list[Part] = []
    for _, text, found in _found(records):
        parts += [Heading(f"{TITLE}: {text}"), bullets(verdicts(found))]
    return parts


def frontier_tables(records: TableRecords) -> list[Table]:
    """The tables of each text, for programs."""
    return [
        table
        for slug, text, found in _found(records)
        for table in (_table(found, slug, text), _match_table(found, text))
    ]


def verdicts(found: Frontier) -> list[str]:
    """Of each mix, whether it beats every uniform format of no more bytes; and which others."""
    return [_verdict(mix, [one for one in found.matches if one.mix == mix]) for mix in found.mixes]


def _verdict(mix: Point, matches: Sequence[Match]) -> str:
    within = [one for one in matches if one.within]
    larger = [one for one in matches if not one.within and one.way == "better"]
    label = mix.cell.label
    beaten = [one for one in within if one.way == "better"]
    not_beaten = [one for one in within if one.way == "worse" or one.equal]
    unsure = [one for one in within if one not in beaten and one not in not_beaten]
    claim = "every uniform format that takes no more bytes"
    if not within:
        text = f"{label}: every uniform format takes more bytes"
    elif not_beaten:
        text = f"{label} does not beat {claim}: {_all(not_beaten)}"
    elif unsure:
        text = f"{label}: undecided whether it beats {claim}: {_all(unsure)}"
    else:
        text = f"{label} beats {claim}: {_best(beaten)}"
    if beaten and len(beaten) < len(within):
        text += f"; it beats {_best(beaten)}"
    if larger:
        text += f"; of those that take more it beats {_best(larger)}"
    return f"{text}."


def _best(matches: Sequence[Match]) -> str:
    """The format of least KL with figures, then the others by name."""
    first, *others = sorted(matches, key=lambda one: one.rival.kl)
    return ", ".join([_against(first), *(one.rival.cell.label for one in others)])


def _all(matches: Sequence[Match]) -> str:
    return ", ".join(map(_against, matches))


def _against(match: Match) -> str:
    """The format, with the difference of KL and its interval."""
    label = match.rival.cell.label
    if isinstance(match.found, Gap):
        return f"{label} (not compared: {match.found.reason})"
    if match.equal:
        return f"{label} (the same to the last bit)"
    change = match.found.plain
    low, high = match.found.ends(Sampling().alpha / 2)
    if change is None or low is None or high is None:
        return f"{label} ({match.found.reason or 'its chance error is not known'})"
    return f"{label} ({change:+.3g} nat, {low:+.3g} to {high:+.3g})"


def _table(found: Frontier, slug: str, text: str) -> Table:
    rows = []
    for point in found.points:
        better = found.dominating(point)
        footprint = point.cell.of("footprint")
        rows.append(
            cell_row(
                point.cell,
                (
                    *(pool(footprint, column.key).figure for column in _COLUMNS[:2]),
                    with_interval(point.cell.of("quality", slug), KL),
                    Figure(word="none" if better is None else better.cell.label),
                ),
            )
        )
    return Table(f"{TITLE}: {text}", "precision", _COLUMNS, tuple(rows))


def _match_table(found: Frontier, text: str) -> Table:
    rows = []
    for match in found.matches:
        gap = isinstance(match.found, Gap)
        change = None if isinstance(match.found, Gap) else match.found
        figure = Figure(word=NOT_MEASURED) if change is None else figure_of(change)
        reason = match.found.reason if gap or figure.low is None else None
        rows.append(
            Row(
                match.mix.cell.label,
                reference=False,
                figures=(
                    Figure(word=match.rival.cell.label),
                    Figure(word="no more" if match.within else "more"),
                    replace(figure, reason=reason),
                    Figure(word="equal" if match.equal else match.way or "undecided"),
                ),
            )
        )
    return Table(f"{_MATCHES}: {text}", "mix", _MATCHED, tuple(rows))


def _found(records: TableRecords) -> Iterator[tuple[str, str, Frontier]]:
    texts = {
        slug: one for slug, one in items(records, "quality").items() if not against_merged(one)
    }
    titles = text_titles(texts)
    for slug in first_windows(texts):
        found = frontier(records, slug)
        if found is not None:
            yield slug, titles[slug], found
