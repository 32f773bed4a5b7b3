"""What the KV cache holds: counted after a decode, and by arithmetic. Part of `memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.record import MetricDefinition
from qbench.measures.loaded import make_metric
from qbench.precisions.kv_cache import kv_cache_named
from qbench.precisions.kv_layers import held_bytes
from qbench.predict.cache_bytes import cache_bytes
from qbench.predict.model_config import config_of

if TYPE_CHECKING:
    from qbench.core.record import Metric
    from qbench.measures.loaded import LoadedModel
    from qbench.predict.work import GridPoint

METRICS = (
    MetricDefinition(
        name="memory.kv_cache",
        unit="B",
        varies_by="nothing",
        better="lower",
        title="KV cache",
        formula="bytes of all tensors that the cache keeps after decode: keys and values, or codes"
        " as they are packed, scales, zero points, and the newest tokens in the model's own type",
    ),
    MetricDefinition(
        name="memory.kv_cache.predicted",
        unit="B",
        better="neither",
        title="KV cache, predicted",
        formula="memory.kv_cache by arithmetic from config.json",
    ),
)
_NO_CACHE = "the model keeps no keys and values in a cache of transformers'"


def cache_metrics(loaded: LoadedModel, point: GridPoint, cache: Any) -> tuple[Metric, ...]:
    """Both figures of a full cache, as the model returned it after a point's last token."""
    held = held_bytes(cache) if hasattr(cache, "layers") else None
    config, reason = config_of(loaded.resolved)
    size = None
    if config is not None:
        size, reason = cache_bytes(
            config,
            kv_cache_named(loaded.cell.kv_cache),
            batch=point.batch,
            prompt_tokens=point.prompt_tokens,
            new_tokens=point.new_tokens,
            item=loaded.model.dtype.itemsize,
            prefill_chunk=point.prefill_chunk,
        )
    return (
        make_metric(METRICS, "memory.kv_cache", held, reason=_NO_CACHE),
        make_metric(METRICS, "memory.kv_cache.predicted", size, reason=reason),
    )
