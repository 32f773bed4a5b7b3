"""A cell's model, built in a process that was started for it alone.

A measurement that is `apart` writes the job of its `UnbuiltCell` to a file and starts a module of
this folder with it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel
    from qbench.plan.job import Job


def build(job_file: Path, phase: Callable[[str], None]) -> LoadedModel:
    """Builds and verifies the model of a job as a worker does; `phase` is told what is begun.

    Raises `WrongKernelError` or `NonFiniteError` for layers that are not what was asked for, and
    what loading raises. Imports torch, transformers and qbench's own modules here.
    """
    from qbench.running.executors.preload import prepare_process

    prepare_process()
    phase("import")
    from qbench.plan.job import Job

    return built(Job.model_validate(json.loads(job_file.read_text(encoding="utf-8"))), phase)


def built(job: Job, phase: Callable[[str], None]) -> LoadedModel:
    """The same of a job, in a process that was prepared."""
    from qbench.running.loading import load
    from qbench.running.worker import check_layers, compute_in_full

    compute_in_full()
    loaded = load(job, phase)
    check_layers(loaded.verification)
    return loaded
