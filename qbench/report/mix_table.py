"""What the layers of a mix are held in: of each format its layers, weights and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Column, Figure, Row, Table
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.report.figures import NOT_MEASURED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_COLUMNS = (
    Column("held_in", "held in", "text"),
    Column("layers", "layers", "exact"),
    Column("weights", "weights", "exact"),
    Column("share", "of the linear weights", "percent"),
    Column("bytes", "bytes", "exact"),
    Column("bits_per_weight", "bits/weight", "number", decimals=3),
    Column("which", "which", "text"),
    Column("left_out", "left in the type of the rest", "text"),
)
_MOST_KINDS = 8


def mix_table(loaded: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a format of a mix; `loaded` is what was found in each model, by the cell's label.

    The format of every single layer stands in the record, under `details.loaded.held_in`.
    """
    rows = []
    for label, found in loaded.items():
        held_in = as_mapping(found.get("held_in"))
        for member, told in as_mapping(found.get("members")).items():
            about = as_mapping(told)
            numbers = (
                Figure(value=as_number(about.get(column.key)))
                for column in _COLUMNS
                if column.display != "text"
            )
            names = [name for name, one in held_in.items() if one == member]
            words = (kinds_of(names), kinds_of(map(str, as_list(about.get("left_out")))))
            figures = (Figure(word=member), *numbers, *(Figure(word=word) for word in words))
            rows.append(Row(label, reference=False, figures=figures))
    return Table("Layers of the mixes", "precision", _COLUMNS, tuple(rows))


def kinds_of(names: Iterable[str]) -> str:
    """The kinds of layers by the ends of their names, with how many there are of each."""
    counts: dict[str, int] = {}
    for name in names:
        kind = name.rpartition(".")[2]
        counts[kind] = counts.get(kind, 0) + 1
    shown = [f"{count} × {kind}" for kind, count in list(counts.items())[:_MOST_KINDS]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{more} more kinds"] if more else [])]) or NOT_MEASURED
