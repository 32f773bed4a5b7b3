"""Every judged change of the tables of fine-tuning, with what it is counted from: for exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.compare import ItemName
from qbench.report.finetune.deployments import first_deployment, judged_deployments
from qbench.report.finetune.qat import floating, won_back

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.report.finetune.changes import Judged
    from qbench.report.finetune.results import Results


class TunedComparison(NamedTuple):
    """The change of one metric of some cells, which differ in their seed alone, from others."""

    cells: Sequence[CellRecords]
    item: ItemName
    metric: str
    against: str
    judged: Judged


def tuned_comparisons(records: TableRecords, results: Results) -> Iterator[TunedComparison]:
    """Those of the arms, of their deployments, and of training against codes."""
    loss = (ItemName("completion", results.test_slug), "completion.loss")
    for one in results.arms:
        shown = one.arm.shown
        if shown and one.base is not None:
            yield TunedComparison(shown, *loss, one.base.label, one.gain)
            for slug, judged in one.forgetting.items():
                yield TunedComparison(shown, *_text(slug), one.base.label, judged)
        if shown and one.against is not None and one.counterpart is not None:
            yield TunedComparison(shown, *loss, one.counterpart.name, one.against)
    arms = {one.arm.name: one.arm for one in results.arms}
    for (name, deployment, question), judged in judged_deployments(records, results).items():
        arm = arms[name]
        cells = arm.of_deployment(deployment)
        if question == "change":
            against = f"{name}--{first_deployment(arm)}"
            yield TunedComparison(cells, *loss, against, judged)
        elif records.reference is not None:
            yield TunedComparison(cells, *_text(question), records.reference.label, judged)
    for found in won_back(results):
        sixteen = floating(found.plain)[0].label
        rounded = found.ptq[0].label
        yield TunedComparison(found.ptq, *loss, sixteen, found.damage)
        yield TunedComparison(found.arm.shown, *loss, rounded, found.against)
        yield TunedComparison(found.arm.shown, *loss, sixteen, found.rest)
        if found.conversion is not None:
            before = f"{found.arm.name}--fake-quantized"
            yield TunedComparison(found.arm.shown, *loss, before, found.conversion)


def _text(slug: str) -> tuple[ItemName, str]:
    return ItemName("quality", slug), "perplexity"
