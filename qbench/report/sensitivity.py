"""What each layer, block or kind costs alone in each format: what hurts most, and the whole map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.compare.items import items, text_titles
from qbench.compare.sensitivities import SENSITIVITY, damages_by_item
from qbench.core.page import (
    Column,
    Figure,
    Fold,
    Heading,
    Row,
    Strong,
    Table,
    Words,
    bullets,
)
from qbench.core.units import counted
from qbench.report.charts.sensitivity import sensitivity_charts
from qbench.report.charts.together import group_of
from qbench.report.figures import NOT_MEASURED, figure_of
from qbench.report.unit_names import short_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qbench.compare.selection import TableRecords
    from qbench.compare.sensitivities import Damages
    from qbench.core.page import Part

TITLE = "What each layer costs alone"
_SHOWN = 12
"""Units in the short map."""
_FIRST = 3
"""Units of each format whose intervals stand outside of the fold."""
_NAMED = 3
_IN_TERMINAL = 6
_LISTED = 256
"""Units of each format that are listed with their intervals; the record has all."""
_KL_DECIMALS = 6
_MILLI = 1e3
_MAP = "KL of each unit alone, in thousandths of a nat a token"
_NOUNS = {"layer": "linear layer", "block": "block", "kind": "kind of layer"}
_HOW_TO_READ = (
    "KL of the model with that unit alone in the format, all others as in the reference, from the"
    " reference; in nats a token, with the 95 % interval over the windows. What several cost"
    " together need not be the sum."
)
_KL = Column("sensitivity.kl", "KL (nat)", "number", decimals=_KL_DECIMALS, intervals=True)
_SHARE = Column(
    "sensitivity.share",
    "of all units' sum",
    "percent",
    definition="share of the sum over the units whose KL was measured in the format",
)
_SAVED = Column(
    "sensitivity.saved",
    "bytes saved",
    "bytes",
    definition="less than in the reference's type: codes and quantization state, without biases",
)
_ERROR = Column(
    "sensitivity.output_error",
    "error of outputs",
    "percent",
    decimals=2,
    definition="of the unit's layers on calibration inputs, relative to their norm; the largest",
)
_WHY = Column("reason", "not measured, since", "text")


def sensitivity_parts(records: TableRecords) -> list[Part]:
    """What hurts most in words, the heat map, and tables; nothing where it was not measured."""
    parts: list[Part] = []
    for title, damages in _found(records):
        first, found = first_table(damages), short_map(damages)
        parts += [
            Heading(title, 3),
            Words(what_was_held(damages)),
            bullets([*what_hurts(damages), *what_is_missing(damages)]),
            *group_of("", sensitivity_charts(damages)),
            Words((Strong(found.title),)),
            found,
            Words((Strong(first.title),)),
            first,
            Words(_HOW_TO_READ),
            Fold(
                f"All {counted(len(damages.units), 'unit')} in each format", tuple(_whole(damages))
            ),
        ]
    return parts


def sensitivity_overview(records: TableRecords) -> list[Part]:
    """What hurts most in words, and the first rows of the map, for a terminal."""
    parts: list[Part] = []
    for title, damages in _found(records):
        found = short_map(damages, _IN_TERMINAL)
        parts += [
            Heading(title),
            bullets(what_hurts(damages)),
            found,
            bullets([f"{found.title}. {what_was_held(damages)}"], "quiet"),
        ]
    return parts


def what_was_held(damages: Damages) -> str:
    """How many units were held in how many formats, and on what text."""
    table = damages.table
    noun = _NOUNS.get(str(damages.record.item.params.get("by")), "unit")
    pairs = len(damages.units) * len(damages.formats)
    return (
        f"{counted(len(damages.units), noun)}, each held alone in"
        f" {counted(len(damages.formats), 'format')} with the rest in {table.rest}:"
        f" {_measured(damages):,} of {pairs:,} pairs were measured, each on"
        f" {counted(len(table.window_tokens), 'window')} ({table.tokens:,} tokens)."
    )


def what_hurts(damages: Damages) -> list[str]:
    """The unit that costs most in each format; formats of the same unit in one line."""
    found: dict[str, dict[str, float]] = {}
    unsure = []
    for label in damages.formats:
        order = damages.ranked(label)
        share = _share(damages, order[0], label) if order else None
        if not share:
            continue
        found.setdefault(order[0], {})[label] = share
        if len(order) > 1 and not damages.told_apart(order[0], order[1], label):
            unsure.append(f"{label} ({order[1]})")
    lines = [
        f"{unit} costs most in {', '.join(shares)}: {_percent(shares.values())} of the sum over"
        " all units."
        for unit, shares in found.items()
    ]
    if unsure:
        lines.append(f"Not told apart from the next by its windows: {', '.join(unsure)}.")
    return lines


def _percent(shares: Iterable[float]) -> str:
    ends = sorted({f"{100 * share:.0f}" for share in shares}, key=int)
    return f"{ends[0]} %" if len(ends) == 1 else f"{ends[0]} to {ends[-1]} %"


def what_is_missing(damages: Damages) -> list[str]:
    """Which pairs have no KL, by format and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for unit in damages.table.units:
        for label in damages.formats:
            cost = unit.costs.get(label)
            if cost is None or cost.kl is None:
                reason = (cost and cost.reason) or "the record does not say why"
                found.setdefault((label, reason), []).append(unit.name)
    lines = []
    for (label, reason), units in found.items():
        more = len(units) - _NAMED
        names = ", ".join(units[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"not measured in {label}: {names}: {reason}")
    return lines


def short_map(damages: Damages, most: int = _SHOWN) -> Table:
    """The units that cost most in some format, and what each of them costs in each."""
    largest = {
        unit: max(
            (kl for label in damages.formats if (kl := damages.kl(unit, label)) is not None),
            default=-math.inf,
        )
        for unit in damages.units
    }
    kept = sorted(damages.units, key=lambda unit: -largest[unit])[:most]
    columns = tuple(
        Column(f"sensitivity.kl.{label}", label, "number", decimals=2, spare=at)
        for at, label in enumerate(damages.formats)
    )
    names = short_names(damages.units)
    rows = (
        Row(
            names[unit],
            reference=False,
            figures=tuple(
                _plain(None if (kl := damages.kl(unit, label)) is None else _MILLI * kl)
                for label in damages.formats
            ),
        )
        for unit in kept
    )
    more = len(damages.units) - len(kept)
    rest = f", the {len(kept)} of {len(damages.units)} units that cost most" if more else ""
    return Table(f"{_MAP}{rest}", "held alone", columns, tuple(rows))


def first_table(damages: Damages) -> Table:
    """Of each format the units that cost most, with their intervals and what they save."""
    rows = tuple(
        Row(
            f"{label}: {unit}",
            reference=False,
            figures=_figures(damages, unit, label),
        )
        for label in damages.formats
        for unit in damages.ranked(label)[:_FIRST]
    )
    return Table("The most sensitive in each format", "held alone", _columns(why=False), rows)


def sensitivity_tables(records: TableRecords) -> list[Table]:
    """Each unit in each format, for programs: a table a format."""
    return [
        _of_format(damages, label, None)
        for _, damages in _found(records)
        for label in damages.formats
    ]


def _whole(damages: Damages) -> Iterator[Part]:
    """A table for each format: all units, those that cost most first."""
    more = max(len(damages.units) - _LISTED, 0)
    for label in damages.formats:
        found = _of_format(damages, label, _LISTED)
        yield Words((Strong(found.title),))
        yield found
        if more:
            yield Words(f"{counted(more, 'more unit')} in the record.")


def _of_format(damages: Damages, label: str, most: int | None) -> Table:
    order = damages.ranked(label)
    left = [unit for unit in damages.units if unit not in set(order)]
    rows = tuple(
        Row(
            unit,
            reference=False,
            figures=(
                *_figures(damages, unit, label),
                *([Figure(word=_reason(damages, unit, label))] if left else []),
            ),
        )
        for unit in (*order, *left)[:most]
    )
    return Table(f"Each unit alone in {label}", "held alone", _columns(why=bool(left)), rows)


def _columns(*, why: bool) -> tuple[Column, ...]:
    return (_KL, _SHARE, _SAVED, _ERROR, *([_WHY] if why else []))


def _figures(damages: Damages, unit: str, label: str) -> tuple[Figure, ...]:
    level, cost = damages.level(unit, label), damages.cost(unit, label)
    saved = damages.saved(unit, label)
    return (
        Figure(word=NOT_MEASURED) if level is None else figure_of(level),
        _plain(_share(damages, unit, label)),
        _plain(None if saved is None else float(saved)),
        _plain(None if cost is None else cost.output_error),
    )


def _share(damages: Damages, unit: str, label: str) -> float | None:
    """Of the sum over the units that were measured; None where that is nothing."""
    kls = (damages.kl(one, label) for one in damages.units)
    total = math.fsum(max(kl, 0.0) for kl in kls if kl is not None)
    own = damages.kl(unit, label)
    return None if own is None or not total else max(own, 0.0) / total


def _reason(damages: Damages, unit: str, label: str) -> str:
    cost = damages.cost(unit, label)
    if cost is not None and cost.kl is not None:
        return ""
    return (cost and cost.reason) or "the record does not say why"


def _measured(damages: Damages) -> int:
    return sum(len(damages.ranked(label)) for label in damages.formats)


def _plain(value: float | None) -> Figure:
    return Figure(word=NOT_MEASURED) if value is None else Figure(value)


def _found(records: TableRecords) -> Iterator[tuple[str, Damages]]:
    """Each table that the reference's records hold, with its title."""
    titles = text_titles(items(records, SENSITIVITY))
    for slug, damages in damages_by_item(records).items():
        yield f"{TITLE}: {titles[slug]}", damages
