"""Energy of a generated token under load, over guidellm's own window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.nvml import visible_gpus
from qbench.core.record import MetricDefinition
from qbench.measures.loaded import make_metric
from qbench.measures.roofline.energy import ENERGY_OF

if TYPE_CHECKING:
    from qbench.core.record import Metric
    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.roofline.energy_trace import EnergyTrace
    from qbench.measures.serving.guidellm_report import Benchmark

METRICS = (
    MetricDefinition(
        name="serving.energy",
        unit="J",
        better="lower",
        title="energy a generated token under load",
        formula=f"{ENERGY_OF} over guidellm's window / (its seconds x serving.output_throughput):"
        " prompts, and requests that failed, are in it",
        varies_by="process",
    ),
)


def devices_of(cell: UnbuiltCell) -> list[str]:
    """What a server of the cell computes on: all GPUs where its model is laid over them."""
    if cell.cell.model.device_map is None or not cell.device.startswith("cuda"):
        return [cell.device]
    return [f"cuda:{index}" for index in range(len(visible_gpus()))] or [cell.device]


def load_energy(trace: EnergyTrace, load: Benchmark, elsewhere: str | None) -> Metric:
    """Of a load; `elsewhere`: why the server's device is not looked at."""
    value, reason = None, elsewhere
    if elsewhere is None:
        rate = load.metrics.output_tokens_per_second.successful.mean
        made = rate * (load.end_time - load.start_time)
        value, reason = trace.per(load.start_time, load.end_time, made)
    return make_metric(METRICS, "serving.energy", value, reason=reason)
