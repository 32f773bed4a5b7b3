"""Mixes beside the formats that hold all layers alike: bytes against divergence on one text.

A mix is held against each format by the paired difference of their divergences from the reference.
Of two cells one dominates where it is no worse in both and better in one, by the figures alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.interactions import is_mix
from qbench.compare.marks import Allowance, direction, mark_all, one_change

if TYPE_CHECKING:
    from qbench.compare.differences import Difference
    from qbench.compare.selection import CellRecords, TableRecords

KL, BYTES = "kl.mean", "memory.static"
_NO_MARGIN = Allowance(0.0, relative=False)


@dataclass(frozen=True)
class Point:
    """A cell with both figures."""

    cell: CellRecords
    bytes: float
    """Static bytes of the model."""
    kl: float
    """Nats a token from the reference."""

    @property
    def is_mix(self) -> bool:
        """Whether its layers are held in several formats."""
        return is_mix(self.cell)

    def dominates(self, other: Point) -> bool:
        """Whether it is no worse than another in both figures, and better in one."""
        mine, theirs = (self.bytes, self.kl), (other.bytes, other.kl)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Match:
    """A mix against a format that holds all layers alike."""

    mix: Point
    rival: Point
    found: Difference | Gap
    """Divergence of the mix less that of the format."""
    way: str | None
    """`better` or `worse` where that is not chance, of all matches of the text together."""

    @property
    def equal(self) -> bool:
        """Whether both diverge alike to the last bit, as a mix of a single format does."""
        return not isinstance(self.found, Gap) and self.found.equal

    @property
    def within(self) -> bool:
        """Whether the format takes no more bytes than the mix."""
        return self.rival.bytes <= self.mix.bytes


@dataclass(frozen=True)
class Frontier:
    """All cells with both figures on one text, the smallest first."""

    points: tuple[Point, ...]
    matches: tuple[Match, ...]

    @property
    def mixes(self) -> list[Point]:
        """Of them those whose layers are held in several formats."""
        return [one for one in self.points if one.is_mix]

    def dominating(self, point: Point) -> Point | None:
        """Of the points that dominate one that with the least divergence; None on the frontier."""
        better = (one for one in self.points if one.dominates(point))
        return min(better, key=lambda one: (one.kl, one.bytes), default=None)


def frontier(records: TableRecords, slug: str) -> Frontier | None:
    """Of one text; None where there is no mix, or nothing beside it."""
    points = sorted(
        (
            point
            for cell in records.cells
            if not cell.reference and not cell.faulty and (point := _point(cell, slug)) is not None
        ),
        key=lambda one: (one.bytes, one.kl),
    )
    mixes = [one for one in points if one.is_mix]
    rivals = [one for one in points if not one.is_mix]
    if not mixes or not rivals:
        return None
    pairs = [(mix, rival) for mix in mixes for rival in rivals]
    found = [
        one_change(
            mix.cell.of("quality", slug),
            rival.cell.of("quality", slug),
            KL,
            Sampling(),
            same_run=True,
        )
        for mix, rival in pairs
    ]
    marks = mark_all([(one, _NO_MARGIN) for one in found], alpha=Sampling().alpha)
    matches = (
        Match(mix, rival, one, direction(one, mark, "lower"))
        for (mix, rival), one, mark in zip(pairs, found, marks, strict=True)
    )
    return Frontier(tuple(points), tuple(matches))


def _point(cell: CellRecords, slug: str) -> Point | None:
    values = [
        next(
            (v for one in found if one.status == "ok" and (v := one.value(name)) is not None), None
        )
        for found, name in ((cell.of("footprint"), BYTES), (cell.of("quality", slug), KL))
    ]
    size, kl = values
    if size is None or kl is None or not math.isfinite(size) or not math.isfinite(kl):
        return None
    return Point(cell, size, kl)
