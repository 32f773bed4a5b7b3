"""The process that is one job: builds the model once, takes each item, writes each record.

It tells its parent what it does through `emit`, one small dictionary an event:

    {"event": "phase", "phase": "load"}
    {"event": "task", "index": 0}            this item is begun
    {"event": "progress", "done": 3, "of": 84}
                                             parts of the item that was begun
    {"event": "steps", "of": 40, "first": 8, "loss": [2.1, 2.0], "learning_rate": […],
     "validation": [[10, 2.2]]}              steps of a training, as `Steps` of `measures/loaded.py`
    {"event": "record", "index": 0, "status": "ok"}
    {"event": "device_lost"}                 this process cannot use its GPU any more, and ends
    {"event": "store_error", "message": "…"} records cannot be written: the run must end
"""

from __future__ import annotations

import math
import re
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.checkpoint import checkpoint_of
from qbench.core.environment import variables_set
from qbench.core.errors import (
    MeasurementError,
    NonFiniteError,
    QbenchError,
    StoreError,
    WrongKernelError,
    is_out_of_memory,
)
from qbench.core.store import write_record
from qbench.measures import measures, of_machine
from qbench.measures.loaded import LoadedModel, UnbuiltCell
from qbench.measures.peaks import release_cached
from qbench.plan.items import caveats
from qbench.plan.job import Job, Task, now
from qbench.precisions.first_pass import changed_layers
from qbench.precisions.nonfinite import describe_nonfinite
from qbench.precisions.verification import NOT_AS_ASKED
from qbench.predict.bf16 import bf16_warning
from qbench.running.loading import load
from qbench.running.mixes import settled
from qbench.sources.models.resolve import fetch_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.core.record import Environment, Record, Status
    from qbench.core.spec import Item
    from qbench.measures.loaded import Outcome
    from qbench.precisions.verification import Verification

    Emit = Callable[[dict[str, Any]], None]

TRACEBACK_LINES = 20
"""Last lines of a failure's traceback that its record keeps; the log has all of it."""
MOST_FAULTS_NAMED = 3
"""Faulty layers named in a reason; the record's details have them all."""

_LOST_CONTEXT = re.compile(
    r"illegal memory access|device-side assert|unspecified launch failure|misaligned address"
    r"|illegal instruction was encountered|invalid program counter|hardware stack error"
    r"|uncorrectable (ECC|NVLink) error|launch timed out|(CUBLAS|CUDNN)_STATUS_EXECUTION_FAILED"
)
"""Of messages, whoever raises them: torch, triton, cuBLAS, bitsandbytes."""


def run_job(job: Job, emit: Emit) -> None:
    """Takes all of a job's items. A failure becomes a record; only `StoreError` ends the job."""
    try:
        _run_job(job, emit)
    except StoreError as error:
        emit({"event": "store_error", "message": str(error)})


def _run_job(job: Job, emit: Emit) -> None:
    started_at = now()
    phase = _Phase(emit)
    compute_in_full()
    try:
        cell = _prepare(job, phase)
    except Exception as error:  # noqa: BLE001 - whatever fails while loading becomes records
        status, reason = classify(error)
        for index, task in enumerate(job.tasks):
            record = job.record(
                task,
                status,
                started_at=started_at,
                reason=reason,
                phase=phase.name,
                log_tail=_traceback_tail(error),
            )
            _write(task, record, index, emit)
        return
    if isinstance(cell, LoadedModel):
        cell = replace(
            cell,
            progress=lambda done, of: emit({"event": "progress", "done": done, "of": of}),
            steps=lambda steps: emit({"event": "steps", **asdict(steps)}),
        )
    environment = _as_computed(job.environment)
    for index, task in enumerate(job.tasks):
        emit({"event": "task", "index": index})
        phase("measure")
        record, failure = _take(job, task, cell, environment)
        _write(task, record, index, emit)
        # Of what is measured apart this process has nothing on a device.
        built = isinstance(cell, LoadedModel)
        if failure is not None and built and _has_lost_device(failure, job.device):
            emit({"event": "device_lost"})
            return


def _prepare(job: Job, phase: _Phase) -> LoadedModel | UnbuiltCell:
    """The job's model; where its items are measured apart, what other processes build it from."""
    if job.sensitivities_key is not None:
        phase("prepare")
        job = settled(job)
    if not any(measures()[task.item.measurement].apart for task in job.tasks):
        return load(job, phase)
    phase("fetch")
    checkpoint = checkpoint_of(job.cell.model, fetch_model(job.model), job.device)
    return UnbuiltCell(job.cell, job.model, checkpoint, job.device, job.model_dump(mode="json"))


def _take(
    job: Job, task: Task, cell: LoadedModel | UnbuiltCell, environment: Environment
) -> tuple[Record, Exception | None]:
    """Takes one item and makes its record, whatever happens; with what was raised."""
    started_at, started = now(), time.perf_counter()
    common: dict[str, Any] = {"started_at": started_at, "environment": environment}
    details: dict[str, Any] = {}
    if isinstance(cell, LoadedModel):
        found = cell.verification
        details = {"loaded": {**found.details, "faults": list(found.faults)}}
    try:
        outcome = _measure(cell, task.item)
    except Exception as error:  # noqa: BLE001 - whatever a measurement raises becomes its record
        status, reason = classify(error)
        if isinstance(cell, LoadedModel):
            reason = _after_failure(cell, status, reason)
        phase = "verify" if isinstance(error, _OF_LAYERS) else "measure"
        record = job.record(
            task,
            status,
            reason=reason,
            phase=getattr(error, "phase", None) or phase,
            log_tail=getattr(error, "log_tail", None) or _traceback_tail(error),
            details=details,
            duration_s=time.perf_counter() - started,
            **common,
        )
        return record, error
    record = job.record(
        task,
        "ok",
        metrics=outcome.metrics,
        series=outcome.series,
        details={**details, **outcome.details},
        warnings=(*outcome.warnings, *caveats(job.cell, task.item), *_type_warnings(job, task)),
        duration_s=time.perf_counter() - started,
        **common,
    )
    return record, None


def _measure(cell: LoadedModel | UnbuiltCell, item: Item) -> Outcome:
    """What a measurement finds, with what is to be known of the layers that it trusts."""
    measurement = measures()[item.measurement]
    if isinstance(cell, UnbuiltCell):
        outcome = measurement.measure_apart(cell, item)
        _check_finite(outcome)
        return outcome
    found = cell.verification
    if measurement.trusts_kernels:
        check_layers(found)
    outcome = measurement.measure(cell, item)
    _synchronize(cell.device)  # an error of its last kernels is its own, not the next one's
    _check_finite(outcome)
    changed = changed_layers(cell.constants, cell.model)
    if changed and measurement.trusts_kernels:
        raise WrongKernelError(_describe_changed(changed))
    not_as_asked = [_describe(found)] if found.faults else []
    not_as_asked += [_describe_changed(changed)] if changed else []
    told = (f"not as asked for: {one}" for one in not_as_asked)
    return replace(outcome, warnings=(*outcome.warnings, *found.warnings, *told))


def _after_failure(loaded: LoadedModel, status: Status, reason: str) -> str:
    """The reason with what the checkpoint has to do with it; memory is given back."""
    if status == "oom":
        with suppress(RuntimeError):  # of a GPU that is lost: recorded as what it is
            release_cached(loaded.device)
    if status == "nan" and loaded.nonfinite_tensors:
        return f"{describe_nonfinite(loaded.nonfinite_tensors)} ({reason})"
    return reason


def _type_warnings(job: Job, task: Task) -> tuple[str, ...]:
    """That the device does not multiply the type that it was given."""
    if not of_machine(task.item.measurement):
        return ()
    warning = bf16_warning(job.cell, job.environment)
    return () if warning is None else (warning,)


def _check_finite(outcome: Outcome) -> None:
    """Raises `NonFiniteError` for raw values that no record can hold."""
    rows = {**outcome.series, **{m.name: m.samples or () for m in outcome.metrics}}
    for name, values in rows.items():
        bad = sum(not math.isfinite(value) for value in values)
        if bad:
            raise NonFiniteError(f"{bad} of the {len(values)} values of {name} are not finite")


def classify(error: Exception) -> tuple[Status, str]:
    """The status that a failure gets, and its reason in words; the traceback goes to the log."""
    traceback.print_exception(error)
    text = str(error).strip()
    if isinstance(error, MeasurementError):
        return error.status, text or type(error).__name__
    if is_out_of_memory(error):
        first = text.splitlines()[0] if text else "no memory left"
        return "oom", f"{first}; use a smaller batch, shorter lengths or a smaller precision"
    if isinstance(error, QbenchError):
        return "error", text
    first = text.splitlines()[0] if text else "no message"
    remedy = ""
    if _LOST_CONTEXT.search(text):
        remedy = "; CUDA_LAUNCH_BLOCKING=1 in the environment shows in the log which kernel it was"
    return "error", f"{type(error).__name__}: {first}{remedy}"


def _has_lost_device(error: Exception, device: str) -> bool:
    """Whether whatever this process asks of its GPU from now on fails with the same error.

    An illegal access or a failed assertion in a kernel destroys the process's CUDA context
    (https://docs.nvidia.com/cuda/cuda-runtime-api/, `cudaErrorIllegalAddress` and its like).
    """
    link: BaseException | None = error
    while link is not None:
        if _LOST_CONTEXT.search(str(link)):
            return True
        link = link.__cause__ or link.__context__
    try:
        _synchronize(device)
    except RuntimeError:
        return True
    return False


def _synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _traceback_tail(error: Exception) -> str:
    """The last lines of the traceback, as they stand in the log."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])


class _Phase:
    """What is running, told to the parent whenever it changes."""

    def __init__(self, emit: Emit) -> None:
        self.name = "start"
        self._emit = emit

    def __call__(self, name: str) -> None:
        self.name = name
        self._emit({"event": "phase", "phase": name})


class _NonFiniteLayersError(NonFiniteError):
    """Verified layers hold values that are infinite or not numbers."""


_OF_LAYERS = (WrongKernelError, _NonFiniteLayersError)


def check_layers(found: Verification) -> None:
    """Raises where layers are not what was asked for, so that nothing is measured on them."""
    if found.faults:
        error = _NonFiniteLayersError if found.nonfinite else WrongKernelError
        raise error(_describe(found))


def _describe(found: Verification) -> str:
    named = "; ".join(found.faults[:MOST_FAULTS_NAMED])
    more = len(found.faults) - MOST_FAULTS_NAMED
    return f"{named}{f'; and {more} more layers' if more > 0 else ''}. {found.remedy}"


def _describe_changed(layers: list[str]) -> str:
    named = ", ".join(layers[:MOST_FAULTS_NAMED])
    more = len(layers) - MOST_FAULTS_NAMED
    return (
        f"{named}{f' and {more} more layers' if more > 0 else ''}: the model or a library changed"
        f" their codes or constants after they were verified. {NOT_AS_ASKED}"
    )


def _write(task: Task, record: Record, index: int, emit: Emit) -> None:
    write_record(Path(task.path), record)
    emit({"event": "record", "index": index, "status": record.status})


def compute_in_full() -> None:
    """fp32 is fp32: no TF32, which some images switch on by `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE`."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _as_computed(environment: Environment) -> Environment:
    """The conditions with what only a process that computes can tell."""
    import torch

    on_cuda = environment.device_type == "cuda"
    told: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "fp32_products": torch.get_float32_matmul_precision(),
        "variables": variables_set(environment.device_type),
    }
    if on_cuda:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        told |= {"cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}
    return environment.model_copy(update=told)
