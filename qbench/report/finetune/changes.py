"""What is said of changes between tuned cells, each judged together with its column."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import known_change, mark_all, verdict_of
from qbench.compare.verdicts import amount_text, interval_text
from qbench.core.page import Figure
from qbench.report.figures import NOT_MEASURED, interval_detail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.compare.differences import Difference
    from qbench.compare.marks import Allowance, Mark
    from qbench.compare.tuned.changes import Claim

Key = TypeVar("Key", bound=tuple[str, ...])


class Judged(NamedTuple):
    """A change with what is said of it. Of all metrics here, lower is better."""

    found: Difference | Gap
    allowance: Allowance
    mark: Mark

    @property
    def value(self) -> float | None:
        """The change as it is shown; None where there is no estimate."""
        return known_change(self.found)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `equivalent`, `equal` or `undecided`."""
        if self.value is None or self.mark.finding == "undecided":
            return "undecided"
        return verdict_of(self.found, self.mark, "lower")

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
