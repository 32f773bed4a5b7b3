"""Changes between tuned cells, or from untuned ones, each judged together with its column."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import Allowance, mark_all
from qbench.compare.seeds import difference_over_seeds
from qbench.compare.selection import CellRecords
from qbench.compare.verdicts import amount_text, interval_text
from qbench.core.page import Figure
from qbench.report.figures import NOT_MEASURED, interval_detail
from qbench.report.finetune.arms import by_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.marks import Mark

Key = TypeVar("Key", bound=tuple[str, ...])
LOSS_MARGIN = Allowance(0.02, relative=False)
"""Nats a token within which two test losses are called equivalent."""
PERPLEXITY_MARGIN = Allowance(0.005, relative=True)


class Claim(NamedTuple):
    """A change with the margin it is compared with."""

    found: Difference | Gap
    allowance: Allowance


class Judged(NamedTuple):
    """A change with what is said of it. Of all metrics here, lower is better."""

    found: Difference | Gap
    allowance: Allowance
    mark: Mark

    @property
    def value(self) -> float | None:
        """The change as it is shown; None where there is no estimate."""
        if isinstance(self.found, Gap) or self.found.estimate is None:
            return None
        return self.found.shown(self.found.estimate.value)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `equivalent`, `equal` or `undecided`."""
        value = self.value
        if value is None or self.mark.finding == "undecided":
            return "undecided"
        if self.mark.finding == "equivalent":
            equal = not isinstance(self.found, Gap) and self.found.equal
            return "equal" if equal else "equivalent"
        return "better" if value < 0 else "worse"

    @property
    def amount(self) -> str:
        """The change with its sign and unit of %."""
        value = self.value
        return "" if value is None else amount_text(value, relative=self.allowance.relative)

    @property
    def interval(self) -> str | None:
        """Its 95 % interval in words; None where there is none."""
        return interval_text(self.mark.low, self.mark.high, relative=self.allowance.relative)

    @property
    def words(self) -> str:
        """The change with its interval."""
        if self.interval is None:
            return self.amount
        return f"{self.amount} (95 % interval {self.interval})"

    @property
    def figure(self) -> Figure:
        """As it stands in a table."""
        if isinstance(self.found, Gap):
            return Figure(word=NOT_MEASURED, reason=self.found.reason)
        verdict, margin = self.verdict, self.allowance.amount
        if self.found.estimate is None:
            told = self.found.reason
            return Figure(word="undecided", reason=told, verdict=verdict, margin=margin)
        word = "equal" if verdict == "equal" else f"{self.amount} {verdict}"
        low, high = self.mark.low, self.mark.high
        told = interval_detail(low, high, relative=self.allowance.relative)
        return Figure(
            self.value, word, low=low, high=high, detail=told, verdict=verdict, margin=margin
        )


def loss_change(
    cells: Sequence[CellRecords], others: CellRecords | Sequence[CellRecords] | None, slug: str
) -> Claim:
    """The change of the test loss from other cells, or from one that has no seeds."""
    return _change(cells, others, ("completion", slug, "completion.loss"), LOSS_MARGIN)


def perplexity_change(cells: Sequence[CellRecords], base: CellRecords | None, slug: str) -> Claim:
    """The relative change of the perplexity of a neutral text from an untuned cell."""
    return _change(cells, base, ("quality", slug, "perplexity"), PERPLEXITY_MARGIN)


def judge_all(claims: Mapping[Key, Claim]) -> dict[Key, Judged]:
    """A verdict for each; the last part of a key is the question that it answers.

    The claims of each kind are adjusted by Holm over all that answer the same question, which
    stand in one column: that most arms gain much is no reason to doubt that two are the same.
    """
    judged: dict[Key, Judged] = {}
    for question in dict.fromkeys(key[-1] for key in claims):
        asked = {key: claim for key, claim in claims.items() if key[-1] == question}
        marks = mark_all(list(asked.values()), alpha=Sampling().alpha)
        judged |= {
            key: Judged(claim.found, claim.allowance, mark)
            for (key, claim), mark in zip(asked.items(), marks, strict=True)
        }
    return judged


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
