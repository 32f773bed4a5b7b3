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
from qbench.core.page_cache import drop_from_page_cache
from qbench.finetune import methods, training_options
from qbench.measures.loaded import LoadedModel
from qbench.measures.peaks import PeakMeter, release_cached
from qbench.precisions import options_of, precisions, unlike_served
from qbench.precisions.first_pass import constants_of
from qbench.precisions.kv_cache import also_of_cache
from qbench.precisions.placement import describe_placement, every_gpu
from qbench.precisions.workspaces import make_workspaces
from qbench.running.mixes import held_against_budget
from qbench.sources.models.model_files import stored_weights
from qbench.sources.models.resolve import fetch_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import PrecisionRef
    from qbench.finetune.serve.deployment import ServedModel
    from qbench.plan.job import Job
    from qbench.precisions.verification import Verification


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
    source = source_of(job, checkpoint, make_source(job, checkpoint))
    if is_cuda:
        make_workspaces(devices)
    torch.manual_seed(0)
    drop_from_page_cache(source.weight_files)
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
    verification = verify(job, source, model)
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
class Source:
    """Where a model comes from, before it is built."""

    held: PrecisionRef
    """What it is held in once it is built."""
    folder: Path
    """What its weights are read from: of random weights, one without any."""
    adapter: Path | None
    """Folder of what is attached to them, if anything is."""
    build: Callable[[], PreTrainedModel]

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold weights."""
        of_adapter = [] if self.adapter is None else stored_weights(self.adapter)
        return [*stored_weights(self.folder), *of_adapter]


def make_source(job: Job, base: Checkpoint) -> Checkpoint:
    """The checkpoint that the job's model is loaded from, whose base was fetched.

    Of a tuned model its files are compared with what was written, and merged weights are made where
    they are not there: both read what is loaded afterwards. Raises `MeasurementError`.
    """
    if job.cell.tuning is None or job.cell.deploy is None:
        return base
    from qbench.finetune.artifact import read_artifact
    from qbench.finetune.serve.deployment import deployed_checkpoint

    read_artifact(job.artifact_key or "", base_fingerprint=job.model.fingerprint)
    return deployed_checkpoint(served_model(job, base))


def source_of(job: Job, base: Checkpoint, loaded_from: Checkpoint) -> Source:
    """The source of the job's model, from what `make_source` gave; no file is read."""
    tuning, held = job.cell.tuning, job.cell.precision
    if tuning is not None and job.cell.deploy is not None:
        from qbench.finetune.serve.deployment import load_deployed

        served = served_model(job, base)
        adapter = served.artifact if loaded_from == base else None
        build = partial(load_deployed, served, loaded_from)
        return Source(held, loaded_from.folder, adapter, build)
    if tuning is not None:
        held = methods()[tuning.method].load_precision(held, training_options(tuning))
    build = partial(precisions()[held.name].load, base, options_of(held))
    return Source(held, base.folder, None, build)


def served_model(job: Job, base: Checkpoint) -> ServedModel:
    """The tuned model of a job in its deployment, before it is loaded."""
    from qbench.finetune.artifact import artifact_folder
    from qbench.finetune.serve.deployment import ServedModel

    cell = job.cell
    if cell.tuning is None or cell.deploy is None:
        raise ValueError(f"{cell.slug}: no tuned model as it is served")
    folder = artifact_folder(job.artifact_key or "")
    return ServedModel(base, cell.tuning, cell.deploy, cell.precision, folder)


def verify(job: Job, source: Source, model: PreTrainedModel) -> Verification:
    """What was really loaded, compared with what was asked for, as records tell it."""
    found = precisions()[source.held.name].verify(model, options_of(source.held))
    served = {"unlike_served": unlike_served(source.held, job.device)}
    details = {**served, **found.details}
    details["unlike_served"] = also_of_cache(details["unlike_served"], job.cell.kv_cache)
    if job.cell.model.device_map is not None:
        details["placement"] = describe_placement(model)
    mix, over_budget = held_against_budget(job, model)
    return replace(found, details={**details, **mix}, faults=(*found.faults, *over_budget))
