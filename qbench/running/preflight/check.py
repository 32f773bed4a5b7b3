"""A look at the machine before the first cell: everything that would prevent the run, on one page.

Only what a person can fix, and what concerns a measurement that is to be taken now, stands in the
way. A cell that cannot run here at all is skipped with its reason, as the plan has it, and stops
nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from qbench.core.errors import Problem
from qbench.core.units import counted
from qbench.running.preflight.hub import hub_problems
from qbench.running.preflight.keys import key_problems
from qbench.running.preflight.packages import package_problems
from qbench.running.preflight.room import device_problems, disk_problems, memory_problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan

MOST_SKIPS_SHOWN = 4
"""Reasons of skipped cells that a page shows."""


@dataclass(frozen=True)
class _Skips:
    """Cells that the plan skips, by their reason."""

    cells: int
    reasons: tuple[str, ...]


class Looked(NamedTuple):
    """What was found of the jobs of one kind of device."""

    plan: Plan
    jobs: Sequence[Job]
    problems: Sequence[Problem]


def problems(
    plan: Plan, jobs: Sequence[Job], results: Path, *, more_devices: Sequence[str] = ()
) -> list[Problem]:
    """All that would prevent these jobs; nothing where there are none to run.

    `more_devices` are those that cells run on beside the plan's own.
    """
    found = _nothing_to_compare_with(plan)
    found += package_problems(plan, jobs)
    found += key_problems(jobs)
    if jobs:
        for device in (plan.device, *more_devices):
            found += device_problems(replace(plan, device=device), jobs)
        found += memory_problems(plan, jobs)
        found += hub_problems(jobs)
        found += disk_problems(plan, jobs, results)
    return found


def page(looks: Sequence[Looked]) -> str:
    """What would prevent a run on devices of these kinds, what to do, and how to continue."""
    lines: list[str] = []
    for one in looks:
        if one.problems:
            lines += [*_found_on(one, named=len(looks) > 1), ""]
    if not looks[0].plan.suite.rehearsal:
        lines.append(
            "the same with --rehearse   runs every cell on the bundled model and data meanwhile, in"
            " minutes"
        )
    lines.append("the same with --yes        starts all the same")
    return "\n".join(lines)


def _found_on(looked: Looked, *, named: bool) -> list[str]:
    """What would prevent the jobs of one kind of device; `named`: with its name."""
    plan, jobs, found = looked
    tasks = sum(len(job.tasks) for job in jobs)
    cells = len({job.cell.slug for job in jobs})
    title = f"{counted(len(found), 'problem')} before the first cell of {plan.suite.name}"
    if named:
        title += f" on {plan.environment.device}"
    lines = [f"{title} ({counted(cells, 'cell')}, {counted(tasks, 'measurement')} to take):", ""]
    for number, one in enumerate(found, 1):
        lines += [f"{number:>3}. {one.place}: {one.found}", f"     → {one.remedy}"]
    skips = _skips(plan)
    if skips.cells:
        lines += ["", f"{counted(skips.cells, 'cell')} of the suite would be skipped:"]
        lines += [f"     {reason}" for reason in skips.reasons[:MOST_SKIPS_SHOWN]]
        more = len(skips.reasons) - MOST_SKIPS_SHOWN
        lines += [f"     … and {counted(more, 'other reason')}: qbench plan"] if more > 0 else []
    return lines


def _nothing_to_compare_with(plan: Plan) -> list[Problem]:
    """A reference that is skipped though cells that would be compared with it are not."""
    found = []
    for cell in plan.every:
        others = [
            one
            for one in plan.cells
            if one.cell.model.name == cell.cell.model.name and not one.skip and not one.reference
        ]
        if cell.reference and cell.skip and others:
            found.append(
                Problem(
                    "reference",
                    f"{cell.cell.slug}, which {counted(len(others), 'cell')} would be compared"
                    f" with, is skipped: {cell.skip}",
                    remedy=f"set `reference` of {plan.suite.file} to a precision that runs here",
                )
            )
    if plan.cells and all(cell.skip for cell in plan.cells):
        reasons = Counter(cell.skip for cell in plan.cells)
        found.append(
            Problem(
                "cells",
                f"none of the {counted(len(plan.cells), 'cell')} can run on"
                f" {plan.environment.device}: {reasons.most_common(1)[0][0]}",
                remedy="choose another device with --device, or other precisions",
            )
        )
    return found


def _skips(plan: Plan) -> _Skips:
    skipped = [cell for cell in plan.cells if cell.skip]
    own = [f"{cell.cell.slug}: {cell.skip}" for cell in skipped if not _follows(cell.skip)]
    return _Skips(len(skipped), tuple(own))


def _follows(reason: str | None) -> bool:
    """Whether a cell is skipped only because its training is, which is named itself."""
    return reason is not None and reason.startswith("its training ")
