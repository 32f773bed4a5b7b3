"""What a recorded metric varies by, also in records that do not say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.core.record import usual_variation

if TYPE_CHECKING:
    from qbench.core.record import Metric, Record, VariesBy

_RESIDENT = re.compile(r"memory\.peak(\.(load|idle|prefill|decode))?")
"""On a CPU the resident size of a process."""
_EXACT_MEASUREMENTS = ("footprint", "memory", "weight_error")
_COUNTS = (
    "tokens",
    "nonfinite_share",
    "completion.tokens",
    "training.trainable_weights",
    "training.trainable_share",
    "training.adapter_share",
)
_OF_PROCESSES = ("training.matrix_share",)


def variation(record: Record, metric: Metric) -> VariesBy:
    """As its definition has it; of a record from before it was kept there, what it was then."""
    if metric.varies_by is not None:
        return metric.varies_by
    measurement = record.item.measurement
    usual = usual_variation(metric.unit)
    if usual == "process" or measurement == "latency" or metric.name in _OF_PROCESSES:
        return "process"
    if record.environment.device_type == "cpu" and _RESIDENT.fullmatch(metric.name):
        return "process"
    return "nothing" if measurement in _EXACT_MEASUREMENTS or metric.name in _COUNTS else usual
