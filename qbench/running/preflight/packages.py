"""Packages that a run needs and that are not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import Problem, UsageError
from qbench.core.packages import ALWAYS_NEEDED, install_command, version_in
from qbench.finetune import methods
from qbench.measures import measures
from qbench.precisions import options_of, precisions
from qbench.precisions.kv_cache import kv_caches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qbench.core.spec import Cell, ResolvedModel
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan


def package_problems(plan: Plan, jobs: Sequence[Job]) -> list[Problem]:
    """One problem that names every missing package with what needs it; none if all are there.

    A cell that is skipped for want of a package counts too: installing it is all that it takes.
    Raises `UsageError` without torch: there is nothing else to look at, or to start all the same.
    """
    if jobs and version_in("torch", plan.environment) is None:
        raise UsageError(
            f"{plan.suite.name}: found no torch, which loads and runs every model; expected it on"
            f" {plan.environment.device}: {install_command(['torch'])}"
        )
    wanted: dict[str, dict[str, None]] = {}
    cells: list[tuple[Cell, ResolvedModel, str | None]]
    cells = [(job.cell, job.model, None) for job in jobs]
    cells += [(cell.cell, cell.model, cell.skip) for cell in plan.cells if cell.skip]
    if jobs:
        for package in ALWAYS_NEEDED:
            wanted.setdefault(package, {})["every cell"] = None
    for cell, model, skip in cells:
        for user, packages in _needs(cell, model):
            for package in packages if skip is None else _lacking(packages, skip):
                wanted.setdefault(package, {})[user] = None
    for user, packages in _needs_of_items(jobs).items():
        for package in packages:
            wanted.setdefault(package, {})[user] = None
    missing = {
        package: users
        for package, users in wanted.items()
        if version_in(package, plan.environment) is None
    }
    if not missing:
        return []
    found = "; ".join(f"{package} for {', '.join(users)}" for package, users in missing.items())
    return [
        Problem(
            "packages",
            f"not installed: {found}",
            remedy=f"{install_command(missing)}, or leave out what needs them",
        )
    ]


def _needs_of_items(jobs: Sequence[Job]) -> dict[str, tuple[str, ...]]:
    """Measurements with the packages that they need, and items with those that they need beside."""
    found: dict[str, tuple[str, ...]] = {}
    for item in (task.item for job in jobs for task in job.tasks):
        measurement, user = measures()[item.measurement], f"{item.measurement} {item.slug}"
        found.setdefault(item.measurement, measurement.needs)
        if user not in found:
            more = measurement.needs_of(item)
            found[user] = tuple(one for one in more if one not in measurement.needs)
    return found


def _lacking(packages: Iterable[str], skip: str) -> Iterator[str]:
    """Those that a cell is skipped for the want of, by the reason."""
    return (package for package in packages if package in skip)


def _needs(cell: Cell, model: ResolvedModel) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Precisions and methods of a cell, with the packages that they need."""
    yield (
        cell.precision.name,
        precisions()[cell.precision.name].needs_of(model, options_of(cell.precision)),
    )
    if cell.kv_cache is not None:
        yield f"kv_cache {cell.kv_cache}", kv_caches()[cell.kv_cache].needs
    if cell.tuning is not None:
        trained_in = cell.tuning.precision.name
        yield trained_in, precisions()[trained_in].needs
        yield cell.tuning.method, methods()[cell.tuning.method].needs
