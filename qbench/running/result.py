"""What a run left: its records, and what of the plan has none or is incomplete."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.units import counted
from qbench.plan.missing import lacking, why_lacking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record, Status
    from qbench.plan.job import Task
    from qbench.plan.plan import Plan
    from qbench.plan.suite.suite import Suite


@dataclass(frozen=True)
class RunResult:
    """What a run left: its plans, one a kind of device, and the records of all their tasks."""

    plans: tuple[Plan, ...]
    records: tuple[Record, ...]
    """Of the selected cells, in the plans' order; tasks that were never reached have none."""
    others: tuple[Record, ...]
    """Of the suite's cells that were not selected, as far as they are on disk."""
    taken: int
    """Of `records`, those that this run took; the others were on disk."""
    taken_beside: int
    """Records of cells that were not selected, taken because selected ones need what they make."""
    lost: tuple[Task, ...]
    """What was planned and has no record now: files that vanished while the run went on."""
    lacking: tuple[Record, ...]
    """Of `records`, those that lack what was asked for and the next run can take: see `lacking`."""

    @property
    def suite(self) -> Suite:
        """The suite that was run."""
        return self.plans[0].suite

    @property
    def counts(self) -> Counter[str]:
        """Records by status."""
        return Counter(record.status for record in self.records)

    @property
    def failed(self) -> bool:
        """Whether something that was asked for is not there, but for what is skipped."""
        return (
            any(record.status not in {"ok", "skipped"} for record in self.records)
            or bool(self.lost)
            or bool(self.lacking)
        )

    def missing_in_words(self) -> list[str]:
        """A sentence each of what no record says, with what to do."""
        sentences = []
        if self.lost:
            sentences.append(
                f"planned but not on disk: {counted(len(self.lost), 'record')}, such as"
                f" {self.lost[0].path}; something removed or damaged them while the run went on:"
                " run again, and only they are measured"
            )
        if self.lacking:
            record = self.lacking[0]
            sentences.append(
                f"without all that was asked for: {counted(len(self.lacking), 'record')}, such as"
                f" {record.cell.slug} {record.item.measurement} {record.item.slug}"
                f" ({why_lacking(record)}); run again to take it"
            )
        return sentences


def result_of(plans: Sequence[Plan], taken: set[str], retry: frozenset[Status]) -> RunResult:
    """What is on disk now, whatever the run believes to have written."""
    selected = [(plan, task) for plan in plans for task in plan.tasks]
    others = [
        plan.records.record(task)
        for plan in plans
        for cell in plan.unselected
        for task in cell.tasks
    ]
    found = [plan.records.record(task) for plan, task in selected]
    keys = {task.key for _, task in selected}
    return RunResult(
        plans=tuple(plans),
        records=tuple(record for record in found if record is not None),
        others=tuple(record for record in others if record is not None),
        taken=len(taken & keys),
        taken_beside=len(taken - keys),
        lost=tuple(
            task for (_, task), record in zip(selected, found, strict=True) if record is None
        ),
        lacking=tuple(record for plan in plans for record in lacking(plan, retry)),
    )
