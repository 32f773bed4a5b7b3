"""A cell's model as a checkpoint, written in a process of its own: it appears whole or not."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from contextlib import redirect_stderr
from typing import TYPE_CHECKING

from qbench.core.errors import ProcessFailedError, StoreError, UsageError
from qbench.core.files import nearest_existing, scratch_folder, sweep, waiting_folder
from qbench.core.names import did_you_mean
from qbench.core.packages import missing_packages
from qbench.core.units import choose_scale
from qbench.finetune.artifact import artifact_folder, damage_of_artifact, has_artifact
from qbench.finetune.serve.written import ADAPTER_FORM, is_adapter, why_unwritable
from qbench.measures.own_process import run_module
from qbench.precisions.writing.choosing import form_of
from qbench.precisions.writing.form import WrittenFolder
from qbench.sources.models.model_files import stored_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.plan.cells import PlannedCell
    from qbench.plan.plan import Plan

_SPARE_BYTES = 2**24
"""Of the small files, and for what a file system keeps for itself."""


def cell_to_export(plan: Plan, name: str) -> PlannedCell:
    """The one cell of a plan that is called so, by its label or slug.

    Raises `UsageError` where there is none or several, and for one that is no model that a folder
    can hold, or cannot be built here.
    """
    where = f"suite {plan.suite.name}"
    found = [one for one in plan.every if name in {one.cell.label, one.cell.slug}]
    if not found:
        labels = list(dict.fromkeys(one.cell.label for one in plan.every))
        near = did_you_mean(name, labels)
        hint = near or f"there is {', '.join(labels)}"
        raise UsageError(f"CELL {name!r}: found no such cell in {where}; {hint}")
    if len(found) > 1:
        slugs = ", ".join(one.cell.slug for one in found)
        raise UsageError(f"CELL {name!r}: found {len(found)} cells in {where}; give one of {slugs}")
    cell = found[0]
    reason = _why_no_model(plan, cell)
    if reason is not None:
        raise UsageError(f"{cell.cell.slug}: {reason}")
    return cell


def _why_no_model(plan: Plan, planned: PlannedCell) -> str | None:
    cell = planned.cell
    if cell.is_training:
        served = [
            one.cell.label
            for one in plan.every
            if one.cell.tuning == cell.tuning and not one.cell.is_training
        ]
        return f"it is the training itself; give what is served of it: {', '.join(served)}"
    if cell.kv_cache is not None:
        return (
            "a KV cache is made while a model runs, and is no part of a checkpoint; export"
            f" {cell.precision.label}, and ask whatever serves it for the cache: generate's"
            " cache_implementation and cache_config in transformers, --kv-cache-dtype in vLLM"
        )
    if cell.model.kind == "random":
        return "its weights are random; export a cell of a real model"
    if planned.skip is not None:
        return f"it cannot be built here: {planned.skip}"
    if planned.artifact_key is None or has_artifact(planned.artifact_key):
        return None
    damage = damage_of_artifact(planned.artifact_key)
    found = f" as it was left there ({damage})" if damage else ""
    return (
        f"its tuned model is not in the cache{found}; train it first:"
        f" qbench run {plan.suite.file} --only {cell.slug}"
    )


def export_checkpoint(
    plan: Plan,
    planned: PlannedCell,
    to: Path,
    *,
    form: str | None = None,
    card: Callable[[WrittenFolder], str],
) -> WrittenFolder:
    """Builds and verifies the model of a cell, and writes it to a folder that is not there yet.

    `form` names one of its precision's forms. `card` makes the folder's README.md. What is loaded
    again from the folder must give the same logits, as nearly as the form says. Raises `UsageError`
    for a folder that is there, a cell that no form holds, and one that cannot be built;
    `StoreError` where it cannot be written.
    """
    if os.path.lexists(to):
        raise UsageError(f"{to}: it is there already; name a folder that is not, or remove it")
    job = plan.job_of(planned)
    deploy = job.cell.deploy
    reason = why_unwritable(deploy)
    if reason is not None:
        raise UsageError(f"{job.cell.slug}: {reason}")
    is_on_base = is_adapter(deploy)
    if is_on_base and form not in (None, ADAPTER_FORM.name):
        raise UsageError(
            f"--form {form}: {job.cell.label} is an adapter on its base, which PEFT saves in one"
            " form; leave --form out, or export the merged model"
        )
    chosen = ADAPTER_FORM if is_on_base else form_of(job.cell.precision, form)
    missing = missing_packages(chosen.needs)
    if missing is not None:
        raise UsageError(f"{job.cell.slug}: what it is written in {missing}")
    _check_room(to, _size_bytes(planned, is_on_base=is_on_base))
    try:
        sweep(to.parent, f".{to.name}.*.part")
        with scratch_folder("qbench-export") as scratch, waiting_folder(to) as waiting:
            request = scratch / "request.json"
            asked = {
                "job": job.model_dump(mode="json"),
                "folder": str(waiting.absolute()),
                "form": None if is_on_base else chosen.name,
            }
            request.write_text(json.dumps(asked), encoding="utf-8")
            with redirect_stderr(io.StringIO()):  # what libraries print
                ended = run_module(
                    "qbench.running.alone.write_checkpoint",
                    request,
                    scratch / "marks",
                    gpu=job.device.startswith("cuda"),
                )
            size = sum(file.stat().st_size for file in waiting.glob("*.safetensors"))
            found = WrittenFolder(chosen, size_bytes=size, **ended.found)
            (waiting / "README.md").write_text(card(found), encoding="utf-8")
            for file in waiting.rglob("*.*"):
                file.chmod(0o644)  # libraries give some to this user alone
            _move(waiting, to)
    except ProcessFailedError as error:
        raise UsageError(f"{job.cell.slug}: {error}") from error
    except OSError as error:
        raise StoreError(
            f"{to}: cannot be written ({error.strerror or error}); free space, or name another"
            " folder"
        ) from error
    return found


def _move(waiting: Path, to: Path) -> None:
    """Gives the folder its name; raises `UsageError` where another process has taken it by now."""
    try:
        waiting.replace(to)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise UsageError(
            f"{to}: it was written by another process meanwhile, and is left as it is; name"
            " another folder, or remove it"
        ) from error


def _size_bytes(planned: PlannedCell, *, is_on_base: bool) -> int:
    """What the folder will hold at the most, as far as it is known."""
    if is_on_base:
        folder = artifact_folder(planned.artifact_key or "")
        return sum(one.stat().st_size for one in stored_weights(folder))
    return planned.predicted.total if planned.predicted else planned.model.disk_bytes or 0


def _check_room(to: Path, wanted: int) -> None:
    """Raises `StoreError` where the disk has no room for so much."""
    there = nearest_existing(to)
    free, wanted = shutil.disk_usage(there).free, wanted + _SPARE_BYTES
    if free < wanted:
        scale = choose_scale([wanted], "bytes")
        raise StoreError(
            f"{to}: some {scale.with_unit(wanted)} are needed, and {scale.with_unit(free)} are"
            f" free on the disk of {there}; free space, or name a folder on another disk"
        )
