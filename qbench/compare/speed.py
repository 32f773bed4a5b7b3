"""Which speeds and peaks are not those of a format as it is served: what is emulated here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.served import holds_wider
from qbench.core.unchecked import as_mapping
from qbench.precisions import unlike_served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.record import Metric, Record

TIMED = frozenset({"latency", "training", "cold_start", "kernels", "serving"})
"""Measurements with times, rates and energy of products."""
_OF_SPEED = frozenset({"s", "tokens/s", "requests/s", "J"})
"""Units of their figures that tell how fast something is; those without a better direction are
limits of the machine."""
_RATIOS = frozenset({"kernels.ratio", "kernels.ratio.fp32"})
"""Figures of theirs that are times over other times."""
KEY = "unlike_served"
"""In what a record tells of the loaded model: the sentence, or None."""
LEGEND = "not the speed, or the peak memory, that the format has where it is served"
"""What the mark ≠ means."""
_STARTING = ("cold_start.first_token", "cold_start.weights", "cold_start.forward")
"""Of a cold start, what depends on the format: its other phases are those of any cell."""
_PEAK = ("memory.peak", "serving.memory.")
"""Of measured memory, what is marked: the bytes of a KV cache are those of any cell."""
_HELD_WIDER = "a peak is of codes that are held in more bits than they have; packed ones take less"


def why_not_served(records: Sequence[Record], metric: str) -> str | None:
    """Why a speed or a peak that records hold is not that of their precision as it is served.

    A sentence; None where it is, as far as is known, and for any other metric. A record that does
    not say it is judged by its precision and its device.
    """
    for record in records:
        found = record.metric(metric)
        if found is not None and metric.startswith(_PEAK) and holds_wider(record):
            return _HELD_WIDER
        if found is None or not _is_speed(record, found):
            continue
        loaded = as_mapping(record.details.get("loaded"))
        if KEY in loaded:
            told = loaded[KEY]
            return told if isinstance(told, str) else None
        # A training may load another precision, and an engine has kernels of its own.
        if record.item.measurement not in ("training", "serving"):
            device = record.environment.device_type
            return unlike_served(record.cell.precision, device, record.cell.kv_cache)
    return None


def marked_lines(labels: Mapping[str, Iterable[str]]) -> list[str]:
    """What the mark ≠ means, and then who has it for which reason; `labels` are by the reason."""
    if not labels:
        return []
    why = [f"≠ {', '.join(each)}: {reason}" for reason, each in labels.items()]
    return [f"≠: {LEGEND}; why:", *why]


def _is_speed(record: Record, metric: Metric) -> bool:
    timed = record.item.measurement in TIMED and metric.unit in _OF_SPEED
    if record.item.measurement == "cold_start" and metric.name not in _STARTING:
        return False
    return (timed and metric.better != "neither") or metric.name in _RATIOS
