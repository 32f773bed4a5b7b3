"""Peak memory by phase: load, idle, prefill, decode.

CUDA: what the allocator's tensors took at most, cuBLAS' workspaces in every phase alike. CPU: the
peak resident size of the process, whose libraries come before any model, and which is another in
every process: what is decided by there are the live tensors of `memory.peak.inference`.
`memory.peak` takes the level before loading off, on both. Of a model on several GPUs all figures
are sums over them; the details have each GPU's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from qbench.core.gpu import IN_USE_BYTES, used_bytes_by_device
from qbench.core.options import plain_options, typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.finetune.train.live_bytes import LivePeak
from qbench.measures import kv_cache
from qbench.measures.grid import grid_misfit, grid_points
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement, less_unsaid, repeated
from qbench.measures.options import (
    GridBatch,
    GridOutput,
    GridPrompt,
    GridRepeats,
    PrefillChunk,
)
from qbench.measures.workload import make_workload
from qbench.precisions.inventory import inventory
from qbench.precisions.workspaces import workspace_bytes
from qbench.predict.peaks import predicted_peak
from qbench.predict.work import GridPoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.record import Metric, VariesBy
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.peaks import Peak
    from qbench.measures.workload import Workload

_RETRIED = (
    "the allocator had to give back its cache and try again: the device was nearly full, so the"
    " peaks are what fitted rather than what was wanted"
)
_NOT_PREDICTED = "what this cell takes is not predicted"
PHASES = ("load", "idle", "prefill", "decode")

METRICS = (
    MetricDefinition(
        name="memory.peak",
        unit="B",
        varies_by="process",
        better="lower",
        title="peak memory",
        formula="highest memory.peak.<phase> less the level just before the model was loaded, of"
        " which cuBLAS' workspaces are a part",
    ),
    *(
        MetricDefinition(
            name=f"memory.peak.{phase}",
            unit="B",
            varies_by="process",
            better="lower",
            title=f"peak while {phase}" if phase == "idle" else f"peak of {phase}",
            formula="CUDA: max_memory_allocated of the phase, summed over the model's GPUs, cuBLAS'"
            " workspaces included. CPU: high-water mark of the process's resident size in the"
            " phase",
        )
        for phase in PHASES
    ),
    *(
        MetricDefinition(
            name=f"memory.reserved.{phase}",
            unit="B",
            better="lower",
            title=f"peak reserved, {phase}",
            formula="CUDA: max_memory_reserved of the phase, before which what the allocator kept"
            " is given back; summed over the model's GPUs",
        )
        for phase in PHASES
    ),
    MetricDefinition(
        name="memory.peak.inference",
        unit="B",
        better="lower",
        title="peak of inference",
        formula="higher of prefill and decode. CUDA: max_memory_allocated less the level just"
        " before the model was loaded. CPU: live bytes of all tensors, counted",
    ),
    MetricDefinition(
        name="memory.peak.predicted",
        unit="B",
        better="neither",
        title="predicted peak of inference",
        formula="memory.peak.inference from shapes alone: weights, cache, activations and logits",
    ),
    *kv_cache.METRICS,
    MetricDefinition(
        name="memory.device",
        unit="B",
        varies_by="process",
        better="lower",
        title="memory of the device",
        formula="NVML: what the model's GPUs hold after decode, the blocks that it left cached and"
        " the CUDA context included, less what they held before the job",
    ),
)


class MemoryOptions(Frozen):
    """Options of `memory`."""

    batch: GridBatch = (1,)
    """Sequences at once; a list makes a grid."""
    prompt_tokens: GridPrompt = (128,)
    """Tokens of the prompt, `context` for as many as the model's own context leaves beside the new
    ones; a list makes a grid, whose points beyond a model's context are skipped."""
    prefill_chunk: PrefillChunk = None
    """Tokens of each sequence that one forward of prefill reads; the whole prompt unless given."""
    new_tokens: GridOutput = (32,)
    """Tokens decoded after it; a list makes a grid."""
    repeats: GridRepeats = 1
    """Processes that each point is taken in: 5 show the spread of a CPU's resident size."""


class MemoryPoint(GridPoint):
    """What is measured at one point of the grid."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    """Chooses the token ids."""


@dataclass(frozen=True)
class Memory(Measurement):
    """What the model takes at most, phase by phase."""

    name: str = "memory"
    summary: str = "peak memory of load, idle, prefill and decode"
    options: type[Frozen] = MemoryOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    of_machine: bool = True

    def misfit(self, options: MemoryOptions, model: ResolvedModel) -> Problem | None:
        """Lengths that are all beyond the model's context, or a grid without end."""
        return grid_misfit(options, model)

    def items(self, options: MemoryOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a grid point and repeat; none for a grid that is refused."""
        points = [
            MemoryPoint(**plain_options(point), seed=0) for point in grid_points(options, model)
        ]
        told = ((point.slug, plain_options(point)) for point in points)
        return repeated(self.name, told, options.repeats)

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The grid of one point; chunks where the prompt is longer than one."""
        return less_unsaid(super().asked_as(params), "prefill_chunk")

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Runs the phases with the peak reset before each."""
        import torch

        point, meter = typed_options(MemoryPoint, item.params), loaded.meter
        peaks: dict[str, Peak] = {"load": loaded.load_peak}
        meter.boundary()
        peaks["idle"] = meter.read()
        workload = make_workload(loaded.model, point, point.seed)
        with torch.inference_mode():
            meter.boundary()
            cache = workload.prefill(loaded.model, loaded.new_cache())
            peaks["prefill"] = meter.read()
            meter.boundary()
            cache = workload.decode(loaded.model, cache)
            peaks["decode"] = meter.read()
        kept = kv_cache.cache_metrics(loaded, point, cache)
        del cache
        after = used_bytes_by_device(loaded.devices)
        before = {
            device: loaded.used_before_bytes[device]
            for device in after
            if device in loaded.used_before_bytes
        }
        on_device = {device: after[device] - size for device, size in before.items()}
        known = len(on_device) == len(loaded.devices)
        highest = max(peak.used_bytes for peak in peaks.values())
        inference = _inference_bytes(loaded, workload, peaks)
        retries = sum(peak.allocation_retries or 0 for peak in peaks.values())
        counted: VariesBy | None = "nothing" if loaded.device.startswith("cuda") else None
        return Outcome(
            metrics=(
                make_metric(
                    METRICS,
                    "memory.peak",
                    highest - loaded.level_before_bytes,
                    varies_by=counted,
                ),
                *(
                    make_metric(METRICS, f"memory.peak.{phase}", peak.used_bytes, varies_by=counted)
                    for phase, peak in peaks.items()
                ),
                *(_reserved(phase, peak) for phase, peak in peaks.items()),
                make_metric(METRICS, "memory.peak.inference", inference),
                _predicted(loaded, item),
                *kept,
                make_metric(
                    METRICS,
                    "memory.device",
                    sum(on_device.values()) if known else None,
                    reason="NVML does not tell how much of this GPU is in use"
                    if loaded.device.startswith("cuda")
                    else "NVML tells it of NVIDIA GPUs only",
                ),
            ),
            details={
                "method": meter.method,
                "level_before_bytes": loaded.level_before_bytes,
                "allocation_retries": retries,
                "device_used_before_bytes": sum(before.values()) if known else None,
                "workspace_bytes": workspace_bytes(loaded.devices),
                **_by_device(loaded, peaks, on_device),
            },
            warnings=_warnings(retries, before),
        )


def _by_device(
    loaded: LoadedModel, peaks: dict[str, Peak], on_device: dict[str, int]
) -> dict[str, Any]:
    """What each of several GPUs holds at most in a phase, and by NVML; nothing for a single one."""
    if len(loaded.devices) < 2:
        return {}
    return {
        "by_device": {
            device: {
                "peak_bytes": {phase: peak.by_device[device] for phase, peak in peaks.items()},
                "device_bytes": on_device.get(device),
            }
            for device in loaded.devices
        }
    }


def _warnings(retries: int, used_before: dict[str, int]) -> tuple[str, ...]:
    warnings = [_RETRIED] if retries else []
    warnings += [
        f"{'the device' if len(used_before) < 2 else device} was in use: {size / 2**30:.1f} GiB"
        " were held before the job; free it for peaks and timings that can be trusted"
        for device, size in used_before.items()
        if size > IN_USE_BYTES
    ]
    return tuple(warnings)


def _inference_bytes(loaded: LoadedModel, workload: Workload, peaks: dict[str, Peak]) -> int:
    """What prefill and decode took at most, as it can be predicted.

    The resident size of a process says little of a small model, so that on a CPU the tensors are
    counted in a run of their own.
    """
    import torch

    if loaded.device.startswith("cuda"):
        highest = max(peaks[phase].used_bytes for phase in ("prefill", "decode"))
        return highest - loaded.level_before_bytes
    held = (one.tensor for one in inventory(loaded.model))
    with torch.inference_mode(), LivePeak(loaded.device, held) as live:
        workload.decode(loaded.model, workload.prefill(loaded.model, loaded.new_cache()))
    return live.peak_bytes


def _predicted(loaded: LoadedModel, item: Item) -> Metric:

    is_cuda = loaded.device.startswith("cuda")
    peak = predicted_peak(
        loaded.cell,
        loaded.resolved,
        item,
        device=loaded.device,
        flash=loaded.has_flash,
        counted=not is_cuda,
    )
    total, reason = (None, None) if peak is None else (peak.total, peak.reason)
    return make_metric(METRICS, "memory.peak.predicted", total, reason=reason or _NOT_PREDICTED)


def _reserved(phase: str, peak: Peak) -> Metric:
    reason = None if peak.reserved_bytes is not None else "only CUDA's allocator reserves memory"
    return make_metric(METRICS, f"memory.reserved.{phase}", peak.reserved_bytes, reason=reason)


MEMORY = Memory()
