"""Room for a run: on the disks, in memory, and on the device."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.core.cache import cache_folder
from qbench.core.environment import device_fault
from qbench.core.errors import Problem
from qbench.core.files import nearest_existing
from qbench.core.gpu import IN_USE_BYTES, device_free_bytes, used_bytes_by_device
from qbench.core.options import typed_options
from qbench.core.units import counted
from qbench.measures.quality.quality import QUALITY, QualityParams
from qbench.plan.needs import disk_needs
from qbench.predict.devices import memory_of
from qbench.predict.model_config import decoder_of
from qbench.predict.peaks import load_peak, predicted_peak
from qbench.predict.static import predicted_bytes
from qbench.sources.models.hub import hub_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan

MOST_WEIGHTS_ON_CPU = 2_000_000_000
"""Weights of a model beyond which a suite takes days on a CPU."""
LEAST_FREE_BYTES = 256 * 2**20
"""Left over on each disk: records, logs, and what is not counted here."""

_GIB = 2**30
_TEXT_TOKENS = 300_000
"""Of an evaluation text on the hub, about: WikiText-2's test split has 290,000 to 340,000."""


def device_problems(plan: Plan, jobs: Sequence[Job]) -> list[Problem]:
    """A GPU that torch cannot use, or others do; a model that is far too large for a CPU."""
    spread = any(job.cell.model.device_map is not None for job in jobs)
    is_cpu = plan.environment.device_type == "cpu"
    gpus = _gpus(plan, spread=spread)
    tried = {} if is_cpu else {gpu: device_fault(gpu) for gpu in gpus}
    faults = {gpu: fault for gpu, fault in tried.items() if fault is not None}
    if faults:
        return [
            Problem(
                "device",
                f"{gpu} ({plan.environment.device}) cannot be computed on: {fault.found}",
                remedy=fault.remedy,
            )
            for gpu, fault in faults.items()
        ]
    used = used_bytes_by_device(gpus)
    in_use = {device: size for device, size in used.items() if size > IN_USE_BYTES}
    if in_use:
        held = " and ".join(f"{size / _GIB:.1f} GiB of {name}" for name, size in in_use.items())
        return [
            Problem(
                "device",
                f"others hold {held} ({plan.environment.device}):"
                " peaks and latencies would be theirs too",
                remedy="end what runs there (`nvidia-smi` names it), or choose another GPU with"
                " --device or CUDA_VISIBLE_DEVICES",
            )
        ]
    if not is_cpu:
        return []
    large = {
        job.model.ref.name: job.model.shape.weights
        for job in jobs
        if job.model.shape is not None and job.model.shape.weights > MOST_WEIGHTS_ON_CPU
    }
    if not large:
        return []
    listed = ", ".join(
        f"{name} ({count / 1e9:.1f} billion weights)" for name, count in large.items()
    )
    cells = len({job.cell.slug for job in jobs if job.model.ref.name in large})
    return [
        Problem(
            "device",
            f"no GPU: {counted(cells, 'cell')} of {listed} would run on"
            f" {plan.environment.device}, for days",
            remedy="run it where there is a GPU; `qbench doctor` says why one that is there is not"
            " used",
        )
    ]


def memory_problems(plan: Plan, jobs: Sequence[Job]) -> list[Problem]:
    """Cells that fit the device, or all GPUs that they are laid over, but not what is free now."""
    found = []
    for spread in (False, True):
        ours = [job for job in jobs if (job.cell.model.device_map is not None) is spread]
        free = _free_memory_bytes(plan, spread=spread) if ours else None
        if free is not None:
            found += _memory_problems(plan, ours, free, spread=spread)
    return found


def _memory_problems(plan: Plan, jobs: Sequence[Job], free: int, *, spread: bool) -> list[Problem]:
    needs = {job.cell.slug: (_loading_bytes(job), _needed_bytes(job)) for job in jobs}
    large = {name: max(both) for name, both in needs.items() if max(both) > free}
    if not large:
        return []
    name = max(large, key=lambda one: large[one])
    loading, later = needs[name]
    later_told = f" while it is loaded, and {later / _GIB:.1f} GiB then" if loading > later else ""
    gpus = len(_gpus(plan, spread=spread))
    where = f"{gpus} GPUs together" if gpus > 1 else plan.environment.device
    return [
        Problem(
            "memory",
            f"{free / _GIB:.1f} GiB are free of {where};"
            f" {counted(len(large), 'cell')} would take more, most of all {name} with"
            f" {large[name] / _GIB:.1f} GiB{later_told}",
            remedy="end other programs, or leave these cells out with --only or `exclude`",
        )
    ]


def disk_problems(plan: Plan, jobs: Sequence[Job], results: Path) -> list[Problem]:
    """Disks without room for downloads, tuned and merged models, and reference states."""
    run = replace(plan, selected=frozenset(job.cell.slug for job in jobs))
    uses = [
        _Use(cache_folder() if need.is_cache else hub_folder(), need.what, need.bytes)
        for need in disk_needs(run)
    ]
    uses += [
        _Use(results, "results", 0),
        _Use(cache_folder(), "reference states", sum(map(_states_bytes, jobs))),
    ]
    by_disk: dict[int, list[_Use]] = {}
    for use in uses:
        by_disk.setdefault(nearest_existing(use.folder).stat().st_dev, []).append(use)
    return [problem for of_disk in by_disk.values() if (problem := _disk_problem(of_disk))]


@dataclass(frozen=True)
class _Use:
    """A folder, and what a run would put there."""

    folder: Path
    what: str
    bytes: int


def _disk_problem(uses: list[_Use]) -> Problem | None:
    """What a disk has no room for, if it has none."""
    wanted = LEAST_FREE_BYTES + sum(use.bytes for use in uses)
    free = shutil.disk_usage(nearest_existing(uses[0].folder)).free
    if free >= wanted:
        return None
    large = [use for use in uses if use.bytes] or uses
    listed = ", ".join(f"{use.what} ({use.bytes / _GIB:.1f} GiB)" for use in large)
    folders = ", ".join(dict.fromkeys(str(use.folder) for use in large))
    return Problem(
        "disk",
        f"{free / _GIB:.1f} GiB are free for {folders}, some {wanted / _GIB:.1f} GiB are wanted:"
        f" {listed}",
        remedy="free space, choose other folders (--results, QBENCH_CACHE, HF_HOME), or take the"
        " suite in parts with --only",
    )


def _gpus(plan: Plan, *, spread: bool) -> tuple[str, ...]:
    """The plan's device, or all GPUs for what is laid over them (`device_map`)."""
    count = len(plan.environment.gpus_memory_bytes)
    return tuple(f"cuda:{at}" for at in range(count)) if spread and count else (plan.device,)


def _free_memory_bytes(plan: Plan, *, spread: bool) -> int | None:
    total = plan.environment.device_memory_bytes
    if plan.environment.device_type == "cpu":
        import psutil

        free = int(psutil.virtual_memory().available)
        return free if total is None else min(free, total)
    gpus = _gpus(plan, spread=spread)
    free_of_each = [device_free_bytes(gpu) for gpu in gpus]
    known = [size for size in free_of_each if size is not None]
    return None if len(known) < len(gpus) else sum(known)


def _loading_bytes(job: Job) -> int:
    """What loading takes by arithmetic, a floating model that must fit first; 0 if not known."""
    load = load_peak(job.cell, job.model, device=job.device)
    return 0 if load is None else load.resident or 0


def _needed_bytes(job: Job) -> int:
    """The most that a loaded job takes by arithmetic; 0 where nothing is known."""
    static = predicted_bytes(job.cell, job.model)
    needs = [0 if static is None else static.total]
    device = memory_of(job.environment)
    flash = device is None or device.flash
    for task in job.tasks:
        peak = predicted_peak(job.cell, job.model, task.item, device=job.device, flash=flash)
        needs.append(0 if peak is None else peak.resident or 0)
    return max(needs)


def _states_bytes(job: Job) -> int:
    decoder, _ = decoder_of(job.model)
    if decoder is None:
        return 0
    texts = [
        typed_options(QualityParams, task.item.params).text
        for task in job.tasks
        if task.item.makes_states and task.item.measurement == QUALITY.name
    ]
    tokens = sum(_TEXT_TOKENS for text in texts if text.kind == "hub")
    return 2 * decoder.hidden * tokens
