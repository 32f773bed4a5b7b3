"""The model of a job: fetched, built and verified, with the memory and time that loading took.

A cell is the checkpoint in a precision, a training's base in what its method loads, or a tuned
model as one of its deployments.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from qbench.core.checkpoint import checkpoint_of
from qbench.core.gpu import used_bytes_by_device
from qbench.finetune import methods, training_options
from qbench.measures.loaded import LoadedModel
from qbench.measures.peaks import PeakMeter, release_cached
from qbench.precisions import options_of, precisions, unlike_served
from qbench.precisions.first_pass import constants_of
from qbench.precisions.kv_cache import also_of_cache
from qbench.precisions.placement import describe_placement, every_gpu
from qbench.precisions.workspaces import make_workspaces
from qbench.sources.models.resolve import fetch_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import PrecisionRef
    from qbench.plan.job import Job


def load(job: Job, phase: Callable[[str], None]) -> LoadedModel:
    """Builds the job's model; `phase` is told what is begun.

    Raises `ModelError`, and `MeasurementError` for a tuned model that is not in the cache.
    """
    import torch

    phase("fetch")
    checkpoint = checkpoint_of(job.cell.model, fetch_model(job.model), job.device)
    is_cuda = job.device.startswith("cuda")
    is_spread = is_cuda and job.cell.model.device_map is not None
    devices = every_gpu() if is_spread else (job.device,)
    # Before anything of this process is on the GPU: making merged weights may be.
    used_before_bytes = used_bytes_by_device(devices)
    if is_cuda:
        torch.cuda.set_device(job.device)  # for kernels that ask which one is current
    if job.artifact_key is not None and job.cell.deploy is not None:
        phase("prepare")
    source = _source(job, checkpoint)
    if is_cuda:
        make_workspaces(devices)
    torch.manual_seed(0)
    _drop_from_page_cache(source.checkpoint.folder)
    meter = PeakMeter(*devices)
    meter.boundary()
    level_before_bytes = meter.level_bytes()
    phase("load")
    started = time.perf_counter()
    model = source.build()
    for device in devices if is_cuda else ():
        torch.cuda.synchronize(device)
    load_time_s = time.perf_counter() - started
    load_peak = meter.read()
    phase("verify")
    verification = precisions()[source.held.name].verify(model, options_of(source.held))
    served = {"unlike_served": unlike_served(source.held, job.device)}
    details = {**served, **verification.details}
    details["unlike_served"] = also_of_cache(details["unlike_served"], job.cell.kv_cache)
    verification = replace(verification, details=details)
    if job.cell.model.device_map is not None:
        placement = {"placement": describe_placement(model)}
        verification = replace(verification, details={**verification.details, **placement})
    release_cached(job.device)
    return LoadedModel(
        model=model,
        cell=job.cell,
        resolved=job.model,
        checkpoint=checkpoint,
        device=job.device,
        verification=verification,
        predicted=job.predicted,
        meter=meter,
        level_before_bytes=level_before_bytes,
        used_before_bytes=used_before_bytes,
        load_peak=load_peak,
        load_time_s=load_time_s,
        artifact_key=job.artifact_key,
        trust_code=job.trust_code,
        constants=constants_of(model),
    )


@dataclass(frozen=True)
class _Source:
    """Where a model comes from, before it is built."""

    held: PrecisionRef
    """What it is held in once it is built."""
    checkpoint: Checkpoint
    build: Callable[[], PreTrainedModel]


def _source(job: Job, base: Checkpoint) -> _Source:
    """The source of the job's model; merged weights are made here, before anything is measured."""
    tuning, held = job.cell.tuning, job.cell.precision
    if tuning is not None and job.cell.deploy is not None:
        from qbench.finetune.artifact import artifact_folder, read_artifact
        from qbench.finetune.serve.deployment import ServedModel, deployed_checkpoint, load_deployed

        key = job.artifact_key or ""
        read_artifact(key, base_fingerprint=job.model.fingerprint)
        served = ServedModel(base, tuning, job.cell.deploy, held, artifact_folder(key))
        source = deployed_checkpoint(served)
        return _Source(held, source, partial(load_deployed, served, source))
    if tuning is not None:
        held = methods()[tuning.method].load_precision(held, training_options(tuning))
    return _Source(held, base, partial(precisions()[held.name].load, base, options_of(held)))


def _drop_from_page_cache(folder: Path) -> None:
    """Asks the operating system to forget the model's files, so that loading is a cold one."""
    import os

    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
