"""Peak memory by phase: load, idle, prefill, decode.

CUDA: what the allocator's tensors took at most. CPU: the peak resident size of the process, whose
libraries come before any model; `memory.peak` takes the level before loading off, on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from qbench.finetune.live_bytes import LivePeak
from qbench.gpu_state import IN_USE_BYTES, device_used_bytes
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.options import OneOrMorePositive
from qbench.measures.workload import grid_slug, make_workload, misfit
from qbench.precisions.inventory import inventory
from qbench.predict.inference_tape import FLASH_CAPABILITY
from qbench.predict.peaks import predicted_peak
from qbench.record import MetricDefinition
from qbench.spec import Frozen, Item

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel
    from qbench.measures.peaks import Peak
    from qbench.measures.workload import Workload
    from qbench.record import Metric
    from qbench.spec import ResolvedModel

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
        better="lower",
        title="peak memory",
        formula="highest memory.peak.<phase> less the level just before the model was loaded",
    ),
    *(
        MetricDefinition(
            name=f"memory.peak.{phase}",
            unit="B",
            better="lower",
            title=f"peak while {phase}" if phase == "idle" else f"peak of {phase}",
            formula="CUDA: max_memory_allocated of the phase. CPU: high-water mark of the"
            " process's resident size in the phase",
        )
        for phase in PHASES
    ),
    *(
        MetricDefinition(
            name=f"memory.reserved.{phase}",
            unit="B",
            better="lower",
            title=f"peak reserved, {phase}",
            formula="CUDA: max_memory_reserved of the phase",
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
    MetricDefinition(
        name="memory.device",
        unit="B",
        better="lower",
        title="memory of the device",
        formula="NVML: what the device holds after decode, cached blocks and the CUDA context"
        " included, less what it held before the job",
    ),
)


class MemoryOptions(Frozen):
    """Options of `memory`."""

    batch: OneOrMorePositive = (1,)
    """Sequences at once; a list makes a grid."""
    prompt_tokens: OneOrMorePositive = (128,)
    """Tokens of the prompt; a list makes a grid."""
    new_tokens: OneOrMorePositive = (32,)
    """Tokens decoded after it; a list makes a grid."""


@dataclass(frozen=True)
class Memory:
    """What the model takes at most, phase by phase."""

    name: str = "memory"
    summary: str = "peak memory of load, idle, prefill and decode"
    needs: tuple[str, ...] = ()
    options: type[Frozen] = MemoryOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    trusts_kernels: bool = True

    def misfit(
        self, options: MemoryOptions, model: ResolvedModel
    ) -> tuple[str, str, str, str] | None:
        """Lengths beyond the model's context."""
        return misfit(
            options.prompt_tokens, options.new_tokens, model.context_tokens, model.ref.name
        )

    def items(self, options: MemoryOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a grid point."""
        points = [
            {"batch": batch, "prompt_tokens": prompt, "new_tokens": new, "seed": 0}
            for batch, prompt, new in product(
                options.batch, options.prompt_tokens, options.new_tokens
            )
        ]
        return [
            Item(measurement=self.name, slug=grid_slug(point), params=point) for point in points
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Runs the phases with the peak reset before each."""
        import torch

        meter = loaded.meter
        peaks: dict[str, Peak] = {"load": loaded.load_peak}
        meter.boundary()
        peaks["idle"] = meter.read()
        workload = make_workload(loaded.model, **item.params)
        with torch.inference_mode():
            meter.boundary()
            cache = workload.prefill(loaded.model)
            peaks["prefill"] = meter.read()
            meter.boundary()
            workload.decode(loaded.model, cache)
            peaks["decode"] = meter.read()
        used_bytes = device_used_bytes(loaded.device)
        before_bytes = loaded.device_used_before_bytes
        device_bytes = None
        if used_bytes is not None and before_bytes is not None:
            device_bytes = used_bytes - before_bytes
        highest = max(peak.used_bytes for peak in peaks.values())
        inference = _inference_bytes(loaded, workload, peaks)
        retries = sum(peak.allocation_retries or 0 for peak in peaks.values())
        return Outcome(
            metrics=(
                make_metric(METRICS, "memory.peak", highest - loaded.level_before_bytes),
                *(
                    make_metric(METRICS, f"memory.peak.{phase}", peak.used_bytes)
                    for phase, peak in peaks.items()
                ),
                *(_reserved(phase, peak) for phase, peak in peaks.items()),
                make_metric(METRICS, "memory.peak.inference", inference),
                _predicted(loaded, item),
                make_metric(
                    METRICS,
                    "memory.device",
                    device_bytes,
                    reason="NVML tells it of NVIDIA GPUs only",
                ),
            ),
            details={
                "method": meter.method,
                "level_before_bytes": loaded.level_before_bytes,
                "allocation_retries": retries,
                "device_used_before_bytes": before_bytes,
            },
            warnings=_warnings(retries, before_bytes),
        )


def _warnings(retries: int, used_before_bytes: int | None) -> tuple[str, ...]:
    warnings = [_RETRIED] if retries else []
    if used_before_bytes is not None and used_before_bytes > IN_USE_BYTES:
        warnings.append(
            f"the device was in use: {used_before_bytes / 2**30:.1f} GiB were held before the job;"
            " free it for peaks and timings that can be trusted"
        )
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
        workload.decode(loaded.model, workload.prefill(loaded.model))
    return live.peak_bytes


def _predicted(loaded: LoadedModel, item: Item) -> Metric:
    import torch

    is_cuda = loaded.device.startswith("cuda")
    flash = not is_cuda or torch.cuda.get_device_capability(loaded.device) >= FLASH_CAPABILITY
    peak = predicted_peak(
        loaded.cell, loaded.resolved, item, device=loaded.device, flash=flash, counted=not is_cuda
    )
    total, reason = (None, None) if peak is None else (peak.total, peak.reason)
    return make_metric(METRICS, "memory.peak.predicted", total, reason=reason or _NOT_PREDICTED)


def _reserved(phase: str, peak: Peak) -> Metric:
    reason = None if peak.reserved_bytes is not None else "only CUDA's allocator reserves memory"
    return make_metric(METRICS, f"memory.reserved.{phase}", peak.reserved_bytes, reason=reason)


MEMORY = Memory()
