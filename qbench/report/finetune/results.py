"""What the arms cost and gained: the figures behind the table and the words of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.items import against_merged, items_of
from qbench.compare.tuned.arms import arms_of, counterpart, untuned_base
from qbench.compare.tuned.changes import loss_change, perplexity_change
from qbench.report.finetune.changes import judge_all

if TYPE_CHECKING:
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.compare.tuned.changes import Claim
    from qbench.core.record import Record
    from qbench.report.finetune.changes import Judged

_SCORES = ("generation.rougeL", "generation.chrf", "generation.exact_match", "generation.bleu")
"""The first of these that has a value is the score of the arms."""
_Key = tuple[str, str]


@dataclass(frozen=True)
class ArmResult:
    """One arm with what it is compared with."""

    arm: Arm
    base: CellRecords | None
    """The untuned model in the precision that the arm is served in, else the reference."""
    counterpart: Arm | None
    """LoRA on bf16 where there is one; None for itself."""
    gain: Judged
    """Change of the test loss from the untuned base."""
    against: Judged | None
    """Change of the test loss from the counterpart."""
    forgetting: dict[str, Judged]
    """Change of the perplexity of each neutral text from the untuned base, by the item's slug."""


@dataclass(frozen=True)
class Results:
    """All arms of one table, each column judged together."""

    arms: tuple[ArmResult, ...]
    test_slug: str
    """Of the item that is the loss on the test split."""
    texts: dict[str, Record]
    """Neutral texts by slug: a record of each."""
    score: tuple[str, str] | None
    """Item and metric of generation on the test split; None where there is no score."""
    untuned: tuple[CellRecords, ...]
    """The reference, and the other untuned cells that arms are compared with."""


def results_of(records: TableRecords) -> Results:
    """The arms of a table in their order; there is at least one tuned cell."""
    arms = arms_of(records)
    served = [cell for arm in arms for cell in arm.served]
    test_slug = next(iter(items_of(served, "completion")), "test")
    texts = {
        slug: record
        for slug, record in items_of(served, "quality").items()
        if not against_merged(record)
    }
    bases = {arm.name: untuned_base(records, arm.shown[0]) for arm in arms if arm.shown}
    others = {arm.name: counterpart(arms, arm) for arm in arms}
    claims: dict[_Key, Claim] = {}
    for arm in arms:
        base, other = bases.get(arm.name), others[arm.name]
        claims[arm.name, "gain"] = loss_change(arm.shown, base, test_slug)
        if other is not arm:
            claims[arm.name, "against"] = loss_change(arm.shown, other.shown, test_slug)
        for slug in texts:
            claims[arm.name, f"text {slug}"] = perplexity_change(arm.shown, base, slug)
    judged = judge_all(claims)
    return Results(
        arms=tuple(
            ArmResult(
                arm=arm,
                base=bases.get(arm.name),
                counterpart=None if others[arm.name] is arm else others[arm.name],
                gain=judged[arm.name, "gain"],
                against=judged.get((arm.name, "against")),
                forgetting={slug: judged[arm.name, f"text {slug}"] for slug in texts},
            )
            for arm in arms
        ),
        test_slug=test_slug,
        texts=texts,
        score=_score([*served, *records.cells]),
        untuned=tuple(
            cell
            for cell in records.cells
            if cell.reference or any(cell is base for base in bases.values())
        ),
    )


def test_split_items(cells: list[CellRecords]) -> list[str]:
    """Slugs of what was generated for the prompts of the test split."""
    return [
        slug
        for slug, record in items_of(cells, "generation").items()
        if "data" in record.item.params
    ]


def _score(cells: list[CellRecords]) -> tuple[str, str] | None:
    for slug in test_split_items(cells):
        good = [one for cell in cells for one in cell.of("generation", slug) if one.status == "ok"]
        scored = {
            metric.name
            for record in good
            for metric in record.metrics
            if metric.value is not None and metric.better != "neither"
        }
        others = sorted(scored.difference(_SCORES))
        for name in (*_SCORES, *others):
            if name in scored:
                return slug, name
    return None
