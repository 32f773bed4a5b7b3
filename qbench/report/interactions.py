"""What all layers of a cell cost together, beside the sum of what each costs alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.interactions import KL, interactions
from qbench.compare.items import items, text_titles
from qbench.compare.sensitivities import SENSITIVITY, damages_by_item
from qbench.core.page import Column, Figure, Heading, Table, Words, bullets
from qbench.measures.sensitivity.definitions import OF_CELL, PREFIX
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, figure_of, pool, with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.interactions import Kind, Together
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Part

TITLE = "Sum of single layers against all together"
_DECIMALS = 5
_SEEN = 0.01
"""Share of a sum below which rounding is not spoken of."""
_SUM = Column(
    "sensitivity.sum",
    "sum of singles",
    "number",
    decimals=_DECIMALS,
    definition="KL of each unit alone in what the cell holds it in, added; of a mix that was found,"
    " its predicted KL",
    intervals=True,
)
_JOINT = Column(
    KL,
    "together",
    "number",
    decimals=_DECIMALS,
    definition="KL of the cell on the same windows",
    intervals=True,
)
_MORE = Column(
    "sensitivity.more",
    "together less sum",
    "number",
    decimals=_DECIMALS,
    definition="with the interval of the difference, paired by windows",
    intervals=True,
)
_RATIO = Column("sensitivity.ratio", "together by sum", "number", decimals=2, intervals=True)
_FOUND = Column("sensitivity.finding", "together they cost", "text")
_BITS = Column("bits_per_weight.linear", "linear bits", "number", decimals=2)
_WORDS: dict[Kind, str] = {
    "more": "more than the sum",
    "less": "less than the sum",
    "rounding": "less, or rounding",
    "undecided": "not told apart",
    "unknown": NOT_MEASURED,
}
_SENTENCES: dict[Kind, str] = {
    "more": "Together they cost more than the sum says (over-additive)",
    "less": "Together they cost less than the sum says (under-additive)",
    "rounding": "Together they cost less than the sum says, by no more than rounding may add to it",
    "undecided": "Sum and whole are not told apart by the windows",
}
_HOW_TO_READ = (
    "Both are KL from the reference in nats a token on the text of the sensitivities, with 95 %"
    " intervals over its windows; more and less are told of all rows together, at 5 % (Holm)."
)
_IN_SHORT = (
    "KL from the reference in nats a token: each layer alone, added, and all together; the report"
    " has the intervals"
)
_DIVERGENCE = tuple(
    Column(
        one.name,
        title,
        "percent" if one.unit == "1" else "number",
        decimals=decimals,
        definition=one.formula,
    )
    for name, title, decimals in (
        ("kl.mean", "KL mean", 6),
        ("kl.rounding", "of it rounding", 6),
        ("kl.median", "median", 6),
        ("kl.p99", "p99", 4),
        ("kl.max", "max", 4),
        ("top1_agreement", "same top token", 2),
    )
    for one in OF_CELL
    if one.name == f"{PREFIX}{name}"
)
_OF_ROUNDING = (
    " With a reference in 16 bits each single figure contains rounding, and a sum contains it once"
    " for each unit: up to {most} nat here."
)


@dataclass(frozen=True)
class Summed:
    """The cells that were measured on the text of one table of sensitivities."""

    title: str
    found: tuple[Together, ...]
    table: Table


def sums(records: TableRecords) -> list[Summed]:
    """One for each item of sensitivities with a table and cells beside the reference."""
    titles = text_titles(items(records, SENSITIVITY))
    made = []
    for slug, damages in damages_by_item(records).items():
        found = tuple(interactions(records, slug, damages))
        if found:
            title = f"{TITLE}: {titles[slug]}"
            made.append(Summed(title, found, _table(records, title, found)))
    return made


def interaction_parts(records: TableRecords) -> list[Part]:
    """In words and as a table; nothing where no cell was measured beside the reference's table."""
    parts: list[Part] = []
    for one in sums(records):
        parts += [
            Heading(one.title, 3),
            bullets([*_sentences(one.found), *_reasons(one.found)]),
            one.table,
            Words(_HOW_TO_READ + _rounding(one.found)),
        ]
    return parts


def interaction_overview(records: TableRecords) -> list[Part]:
    """The same for a terminal: sum, whole, ratio and what is said of it."""
    kept = (_SUM.key, _JOINT.key, _RATIO.key, _FOUND.key)
    parts: list[Part] = []
    for one in sums(records):
        keys = [column.key for column in one.table.columns]
        narrow = one.table.with_columns([keys.index(key) for key in kept])
        columns = (replace(column, intervals=False) for column in narrow.columns)
        parts += [
            Heading(one.title),
            replace(narrow, columns=tuple(columns)),
            bullets([_IN_SHORT], "quiet"),
        ]
    return parts


def joint_tables(records: TableRecords) -> list[Table]:
    """For the details: what each cell costs on the text of the sensitivities."""
    texts = text_titles(items(records, SENSITIVITY))
    return [
        Table(
            f"Divergence on the text of the sensitivities: {title}",
            "precision",
            _DIVERGENCE,
            tuple(
                cell_row(cell, (pool(found, column.key).figure for column in _DIVERGENCE))
                for cell in records.cells
                if (found := cell.of(SENSITIVITY, slug))
            ),
        )
        for slug, title in texts.items()
    ]


def _table(records: TableRecords, title: str, found: Sequence[Together]) -> Table:
    texts = text_titles(items(records, "quality"))
    columns = (
        _BITS,
        _SUM,
        _JOINT,
        _MORE,
        _RATIO,
        _FOUND,
        *(
            Column(
                f"kl.mean.{slug}",
                f"KL on {text}",
                "number",
                decimals=_DECIMALS,
                definition="on the text that quality is measured on",
                intervals=True,
            )
            for slug, text in texts.items()
        ),
    )
    rows = tuple(
        cell_row(
            one.cell,
            (
                pool(one.cell.of("footprint"), _BITS.key).figure,
                *(
                    Figure(word=NOT_MEASURED, reason=one.reason)
                    if level is None
                    else figure_of(level)
                    for level in (one.total, one.joint, one.more)
                ),
                _ratio(one),
                Figure(word=_WORDS[one.kind], reason=one.reason),
                *(with_interval(one.cell.of("quality", slug), "kl.mean") for slug in texts),
            ),
        )
        for one in found
    )
    return Table(title, "precision", columns, rows)


def _ratio(one: Together) -> Figure:
    """Measured by the sum, with its interval where the sum is above 0 in each resample."""
    if one.ratio is None or one.ratio.plain is None:
        nothing = one.more is not None and one.ratio is None
        reason = "the sum is not above 0" if nothing and one.reason is None else one.reason
        return Figure(word=NOT_MEASURED, reason=reason)
    plain = figure_of(one.ratio)
    value, low, high = (
        None if end is None else 1 + end for end in (plain.value, plain.low, plain.high)
    )
    return Figure(value, low=low, high=high, reason=plain.reason)


def _sentences(found: Sequence[Together]) -> list[str]:
    """What is said of the cells, those of which the same is said in one line."""
    lines = []
    for kind, words in _SENTENCES.items():
        plain = kind in ("rounding", "undecided")
        told = [
            _in_short(one) if plain and not one.is_mix else _told(one)
            for one in found
            if one.kind == kind
        ]
        if told:
            lines.append(f"{words}: {'; '.join(told)}.")
    return lines


def _in_short(one: Together) -> str:
    ratio = _ratio(one).value
    return one.cell.label + ("" if ratio is None else f" ({ratio:.2f} times)")


def _told(one: Together) -> str:
    if one.total is None or one.joint is None:
        return one.cell.label
    says, cost = (_nats(level.plain) for level in (one.total, one.joint))
    ratio = _ratio(one)
    text = f"{one.cell.label}: {'predicted' if one.is_mix else 'the sum says'} {says},"
    text += f" {'measured' if one.is_mix else 'together'} {cost} nat"
    if ratio.value is None:
        return text
    ends = "" if ratio.low is None else f", {ratio.low:.2f} to {ratio.high:.2f}"
    return f"{text} ({ratio.value:.2f} times{ends})"


def _reasons(found: Sequence[Together]) -> list[str]:
    why: dict[str, list[str]] = {}
    for one in found:
        if one.reason:
            why.setdefault(one.reason, []).append(one.cell.label)
    return [f"{', '.join(labels)}: not compared: {reason}" for reason, labels in why.items()]


def _rounding(found: Sequence[Together]) -> str:
    known = [
        one.rounding
        for one in found
        if one.rounding and one.total and one.rounding > _SEEN * (one.total.plain or 0.0)
    ]
    return _OF_ROUNDING.format(most=_nats(max(known))) if known else ""


def _nats(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3g}"
