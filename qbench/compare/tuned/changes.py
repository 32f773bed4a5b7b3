"""Changes between tuned cells, or from untuned ones: paired, several seeds as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import Allowance
from qbench.compare.seeds import difference_over_seeds
from qbench.compare.selection import CellRecords
from qbench.compare.tuned.arms import by_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference

LOSS_MARGIN = Allowance(0.02, relative=False)
"""Nats a token within which two test losses are called equivalent."""
PERPLEXITY_MARGIN = Allowance(0.005, relative=True)


class Claim(NamedTuple):
    """A change with the margin it is compared with."""

    found: Difference | Gap
    allowance: Allowance


def loss_change(
    cells: Sequence[CellRecords], others: CellRecords | Sequence[CellRecords] | None, slug: str
) -> Claim:
    """The change of the test loss from other cells, or from one that has no seeds."""
    return _change(cells, others, ("completion", slug, "completion.loss"), LOSS_MARGIN)


def perplexity_change(cells: Sequence[CellRecords], base: CellRecords | None, slug: str) -> Claim:
    """The relative change of the perplexity of a neutral text from an untuned cell."""
    return _change(cells, base, ("quality", slug, "perplexity"), PERPLEXITY_MARGIN)


def _change(
    cells: Sequence[CellRecords],
    others: CellRecords | Sequence[CellRecords] | None,
    what: tuple[str, str, str],
    allowance: Allowance,
) -> Claim:
    measurement, slug, metric = what
    mine = by_seed(cells, measurement, slug)
    if not mine:
        return Claim(Gap("missing", "not measured"), allowance)
    if others is None:
        return Claim(Gap("missing", "there is nothing to compare it with"), allowance)
    if isinstance(others, CellRecords):
        base = others.of(measurement, slug)
        pairs = [(records, base) for records in mine.values()]
    else:
        theirs = by_seed(others, measurement, slug)
        pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
    if not pairs:
        return Claim(Gap("missing", "no seed was measured on both sides"), allowance)
    relative = allowance.relative
    found = difference_over_seeds(pairs, metric, relative=relative, sampling=Sampling())
    return Claim(found, allowance)
