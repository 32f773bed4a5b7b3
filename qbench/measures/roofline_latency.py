"""How near prefill and decode come to what the device can do.

Decode at a small batch is bound by memory: each new token has to read all weights and the cache.
Prefill is bound by the products of matrices. Both limits are of the device as measured, see
`qbench.measures.roofline_rates`. A model that fits into the device's caches can pass the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.measures.loaded import make_metric
from qbench.measures.roofline import forward_operations, sizes_of
from qbench.measures.roofline_rates import copy_bandwidth, matrix_rate
from qbench.measures.workload import keeps_logits
from qbench.record import MetricDefinition

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel
    from qbench.record import Metric

METRICS = (
    MetricDefinition(
        name="latency.copy_bandwidth",
        unit="B/s",
        better="neither",
        title="copy bandwidth",
        formula="bytes read and written a second, best of 5 rounds of copies of 256 MiB on the"
        " device, in the same process",
    ),
    MetricDefinition(
        name="latency.matrix_rate",
        unit="FLOP/s",
        better="neither",
        title="matrix rate",
        formula="operations a second of a square product (side 8192 on CUDA, 1024 on a CPU) in the"
        " type that the layers multiply in (LLM.int8: int8), best of 5 rounds, in the same process",
    ),
    MetricDefinition(
        name="latency.decode.bytes",
        unit="B",
        better="neither",
        title="bytes a decode step reads",
        formula="all weights as stored, quantization state included, but an untied input embedding,"
        " and the cache at half its growth",
    ),
    MetricDefinition(
        name="latency.decode.floor",
        unit="s",
        better="neither",
        title="decode floor",
        formula="latency.decode.bytes / latency.copy_bandwidth",
    ),
    MetricDefinition(
        name="latency.decode.floor_share",
        unit="1",
        better="higher",
        title="share of the decode floor reached",
        formula="latency.decode.floor / latency.decode",
    ),
    MetricDefinition(
        name="latency.prefill.operations",
        unit="FLOP",
        better="neither",
        title="operations of prefill",
        formula="2 x weights x tokens of the linear layers, 4 x width x visible pairs of each"
        " attention, and the head at the positions that logits are made for; by arithmetic, an"
        " attached adapter's apart",
    ),
    MetricDefinition(
        name="latency.prefill.matrix_share",
        unit="1",
        better="higher",
        title="share of the matrix rate reached by prefill",
        formula="latency.prefill.operations / latency.prefill / latency.matrix_rate",
    ),
)
_TORCH_NAMES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


@dataclass(frozen=True)
class Limits:
    """The metrics of one item, and what they were computed from."""

    metrics: tuple[Metric, ...]
    details: dict[str, Any]


def latency_limits(
    loaded: LoadedModel,
    params: dict[str, Any],
    *,
    prefill_s: float,
    decode_s: float,
    cache_bytes: int,
) -> Limits:
    """Holds the medians of an item, its `params`, against the device's measured rates.

    `decode_s` is of one new token of the whole batch, `cache_bytes` the size of the full cache.
    Measures the rates, so it must not run while anything is timed.
    """
    prompt, new = params["prompt_tokens"], params["new_tokens"]
    dtype = multiplied_in(loaded)
    bandwidth = copy_bandwidth(loaded.device)
    rate = matrix_rate(loaded.device, dtype)
    read_bytes = _weight_bytes_read(loaded) + cache_bytes * (prompt + new / 2) / (prompt + new)
    floor_s = None if bandwidth.per_s is None else read_bytes / bandwidth.per_s
    operations, unknown = _prefill_operations(loaded, params["batch"], prompt)
    share = None
    if operations is not None and rate.per_s is not None:
        share = operations / prefill_s / rate.per_s
    found = {
        "copy_bandwidth": (bandwidth.per_s, bandwidth.reason),
        "matrix_rate": (rate.per_s, rate.reason),
        "decode.bytes": (read_bytes, None),
        "decode.floor": (floor_s, bandwidth.reason),
        "decode.floor_share": (None if floor_s is None else floor_s / decode_s, bandwidth.reason),
        "prefill.operations": (operations, unknown),
        "prefill.matrix_share": (share, unknown or rate.reason),
    }
    return Limits(
        tuple(
            make_metric(METRICS, f"latency.{name}", value, reason=reason)
            for name, (value, reason) in found.items()
        ),
        {"multiplied_in": dtype, "cache_bytes": cache_bytes},
    )


def multiplied_in(loaded: LoadedModel) -> str:
    """The type that the linear layers multiply in: `fp32`, `bf16`, `fp16` or `int8`."""
    precision = loaded.cell.precision
    if precision.name == "int8":
        return "int8"
    chosen = precision.options.get("compute_dtype")
    return str(chosen) if chosen else _TORCH_NAMES.get(str(loaded.model.dtype), "fp32")


def _prefill_operations(
    loaded: LoadedModel, batch: int, tokens: int
) -> tuple[int | None, str | None]:
    shape, window, unknown = sizes_of(loaded.model.config.to_dict())
    if shape is None:
        return None, unknown
    head_tokens = 1 if keeps_logits(loaded.model) else tokens
    done = forward_operations(
        shape, batch=batch, tokens=tokens, head_tokens=head_tokens, window=window
    )
    return done.total, None


def _weight_bytes_read(loaded: LoadedModel) -> int:
    """Bytes of all the tensors that one new token has to read once."""
    from qbench.precisions.inventory import inventory

    model = loaded.model
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == embedding.data_ptr()
    return sum(
        held.tensor.untyped_storage().nbytes()
        for held in inventory(model)
        if tied or held.tensor.data_ptr() != embedding.data_ptr()
    )
