"""A cell's mix, written as a checkpoint in a process of its own; it appears whole or not at all."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.errors import ProcessFailedError, StoreError, UsageError
from qbench.core.files import scratch_folder, waiting_folder
from qbench.measures.own_process import run_module
from qbench.precisions.mixed.sought import is_mix

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan


@dataclass(frozen=True)
class Exported:
    """What was written."""

    form: str
    """The library whose configuration says what each layer is held in."""
    layers: dict[str, int]
    """Linear layers by what they are held in."""
    size_bytes: int
    """Of the files with weights."""


def job_of_mix(plan: Plan, label: str) -> Job:
    """The job of the one mix of a plan that is called so, without tasks.

    Raises `UsageError` where there is none or several, or it cannot be built here.
    """
    mixes = [cell for cell in plan.every if is_mix(cell.cell.precision)]
    if not mixes:
        raise UsageError(
            f"suite {plan.suite.name} has no mix to export; add one to its precisions, such as"
            " {mixed: {layers: {'*.down_proj': int8, '*': nf4}}}"
        )
    found = [one for one in mixes if label in {one.cell.label, one.cell.slug}]
    if len(found) != 1:
        names = ", ".join(one.cell.slug for one in found or mixes)
        why = "several mixes are called so" if found else "no mix is called so"
        raise UsageError(f"{label}: {why} in suite {plan.suite.name}; give one of {names}")
    if found[0].skip is not None:
        raise UsageError(f"{label}: it cannot be built here: {found[0].skip}")
    return plan.job_of(found[0])


def export_mix(job: Job, to: Path) -> Exported:
    """Builds and verifies the mix of a job, and writes it to a folder that is not there yet.

    What is loaded again from the folder must give the same logits, bit for bit. Raises `UsageError`
    for a folder that is there, a mix that no library's checkpoint holds, and one that cannot be
    built; `StoreError` where it cannot be written.
    """
    if to.exists():
        raise UsageError(f"{to}: it is there already; name a folder that is not, or remove it")
    try:
        with scratch_folder("qbench-export") as scratch, waiting_folder(to) as waiting:
            request = scratch / "request.json"
            asked = {"job": job.model_dump(mode="json"), "folder": str(waiting.absolute())}
            request.write_text(json.dumps(asked), encoding="utf-8")
            with redirect_stderr(io.StringIO()):  # what libraries print
                ended = run_module(
                    "qbench.running.alone.write_mix",
                    request,
                    scratch / "marks",
                    gpu=job.device.startswith("cuda"),
                )
            size = sum(file.stat().st_size for file in waiting.glob("*.safetensors"))
            waiting.replace(to)
    except ProcessFailedError as error:
        raise UsageError(f"{job.cell.slug}: {error}") from error
    except OSError as error:
        raise StoreError(
            f"{to}: cannot be written ({error.strerror or error}); free space, or name another"
            " folder"
        ) from error
    return Exported(ended.found["form"], ended.found["layers"], size)
