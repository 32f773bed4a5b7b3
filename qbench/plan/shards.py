"""A suite's cells cut into shards, which several calls measure independently of one another.

The cut follows from the suite's plan alone, never from what is on a disk, so that every machine
makes the same one. The cells are taken in the suite's order, those of a model and of checkpoints
that were made of it one after another, and cut into stretches: so few shards share a model, and
each of those only takes the reference's states once more where they are not in its cache. What is
dear to make stays with what needs it: a training with all that serves it, and the reference with
the mixes that are found from its sensitivities. The stretches are chosen so that the largest is as
small as can be, by measurements × weights of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.core.record import content_key
from qbench.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.cells import PlannedCell

_WRITTEN = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
_SPLIT_SHOWN = 6
"""Characters of a split's name."""


@dataclass(frozen=True)
class Shard:
    """One of several calls that share a suite."""

    number: int
    """From 1."""
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard that `2/5` means; `UsageError` for what is none."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(
            f"--shard: found {text!r}; expected NUMBER/COUNT, with a number from 1 to the count,"
            " such as 2/5 for the second of five; an array job that counts from 1 to 5 gives it its"
            " own number"
        )
    return Shard(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class ShardCells:
    """What a shard takes of the cells that were selected."""

    shard: Shard
    slugs: frozenset[str]
    cells: int
    """Selected for all shards together."""
    groups: int
    """Cells, or several that stay together, which were shared out."""
    split: str
    """Names who takes what: the same in each shard of one split."""
    unknown: tuple[str, ...] = ()
    """Models whose weights are not known here: they are taken to be as large as the others."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Which part of the suite it is, and what may make it another one elsewhere."""
        cells = counted(self.cells, "cell")
        if self.slugs:
            told = f"{len(self.slugs)} of {cells}, shared out by measurements × weights"
        else:
            parts = f"make {counted(self.groups, 'part')} that stay together, one a shard"
            told = f"nothing to do: the {cells} {parts}"
        notes = [f"shard {self.shard}: {told}; split {self.split}, the same in every shard"]
        if self.unknown:
            notes.append(
                f"shard {self.shard}: how many weights {', '.join(self.unknown)} has is not known"
                " here; a machine that knows it shares the cells out in another way: see that each"
                f" shard tells of split {self.split}"
            )
        return tuple(notes)

    @property
    def data(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "number": self.shard.number,
            "count": self.shard.count,
            "cells": self.cells,
            "split": self.split,
            "weights_unknown": list(self.unknown),
        }


def cells_of_shard(shard: Shard, cells: Sequence[PlannedCell]) -> ShardCells:
    """Which of the selected cells, in the plan's order, the shard takes."""
    sizes = {cell.model.ref.name: _weights(cell) for cell in cells}
    known = [size for size in sizes.values() if size is not None]
    usual = sorted(known)[len(known) // 2] if known else 1
    groups = _groups(cells)
    work = [
        sum(len(one.tasks) * (sizes[one.model.ref.name] or usual) for one in group)
        for group in groups
    ]
    ends = cut(work, shard.count)
    slugs = [[cell.cell.slug for cell in group] for group in groups]
    shares = [[*chain(*slugs[begin:end])] for begin, end in pairwise((0, *ends))]
    return ShardCells(
        shard,
        frozenset(shares[shard.number - 1]) if shard.number <= len(shares) else frozenset(),
        len(cells),
        len(groups),
        content_key({"count": shard.count, "shares": shares})[:_SPLIT_SHOWN],
        tuple(name for name, size in sizes.items() if size is None),
    )


def cut(work: Sequence[int], count: int) -> list[int]:
    """Where the stretches end that `work` is cut into: at most `count`, none of them empty.

    The largest sum of a stretch is as small as it can be.
    """
    count = min(count, len(work))
    if count == 0:
        return []
    low, high = max(work), sum(work)
    while low < high:
        middle = (low + high) // 2
        if len(_fill(work, middle, 0)) <= count:
            high = middle
        else:
            low = middle + 1
    return _fill(work, low, count)


def _fill(work: Sequence[int], most: int, at_least: int) -> list[int]:
    """The ends of stretches that hold as much as they may, and are `at_least` so many."""
    ends: list[int] = []
    held = 0
    for at, one in enumerate(work):
        begun = at > (ends[-1] if ends else 0)
        # One stretch is open beside those that have ended; what is left makes one each at most.
        if begun and (held + one > most or len(ends) + 1 + len(work) - at <= at_least):
            ends.append(at)
            held = 0
        held += one
    return [*ends, len(work)]


def _groups(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """The cells that stay together, model by model."""
    order: dict[str, int] = {}
    for cell in cells:
        order.setdefault(_family(cell), len(order))
    tables = {cell.sensitivities_key for cell in cells} - {None}
    groups: dict[tuple[str, ...], list[PlannedCell]] = {}
    for cell in sorted(cells, key=lambda cell: order[_family(cell)]):
        groups.setdefault(_together(cell, tables), []).append(cell)
    return list(groups.values())


def _family(cell: PlannedCell) -> str:
    """The model whose reference the cell is held against."""
    return cell.model.ref.original or cell.model.ref.name


def _together(cell: PlannedCell, tables: set[str | None]) -> tuple[str, ...]:
    """What the cells of a group share."""
    family = _family(cell)
    if cell.cell.tuning is not None:
        return "tuning", cell.cell.model.name, cell.cell.tuning.label
    made = [cell.sensitivities_key, *(task.key for task in cell.tasks)]
    table = next((key for key in made if key in tables), None)
    return ("cell", cell.cell.slug) if table is None else ("mixes", family, table)


def _weights(cell: PlannedCell) -> int | None:
    shape = cell.model.shape
    return None if shape is None else shape.weights
