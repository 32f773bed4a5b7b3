"""How near prefill and decode come to what the device can do.

Decode at a small batch is bound by memory: each new token has to read all weights and the cache, of
a mixture's experts those that it is sent to. Prefill is bound by the products of matrices. Both
limits are of the device as measured, see `qbench.measures.roofline.rates`.

Records of before have a floor of another kind, `latency.decode.floor`: all weights, experts that no
token reads and tables of positions too, at the bandwidth of copies, which write half of what they
move. Reading alone can be faster, so that a share of that floor could pass 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import FP32, INT8, float_type
from qbench.core.record import MetricDefinition
from qbench.measures.loaded import make_metric
from qbench.measures.roofline.operations import decode_operations, forward_operations, sizes_of
from qbench.measures.roofline.rates import Rate, matrix_rate, read_bandwidth
from qbench.measures.workload import keeps_logits
from qbench.precisions import products_of
from qbench.precisions.inventory import inside
from qbench.precisions.products import MOST_ROWS_IN_FP32
from qbench.sources.models.experts import experts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qbench.core.number_types import NumberType
    from qbench.core.record import Metric
    from qbench.measures.loaded import LoadedModel
    from qbench.precisions.inventory import Held
    from qbench.precisions.products import Products
    from qbench.predict.work import GridPoint

METRICS = (
    MetricDefinition(
        name="latency.read_bandwidth",
        unit="B/s",
        better="neither",
        title="read bandwidth",
        formula="bytes read a second by the best of 5 rounds of sums and of products with a vector,"
        " of a block of the size of latency.decode.read_bytes (the next smaller power of two, 1 to"
        " 256 MiB) on the device, in the same process",
    ),
    MetricDefinition(
        name="latency.matrix_rate",
        unit="FLOP/s",
        better="neither",
        title="matrix rate",
        formula="operations a second of a square product (side 8192 on CUDA, 1024 on a CPU) in the"
        " type that the layers multiply in at the rows of prefill (LLM.int8, and 8-bit weights and"
        " activations: int8; of the latter up to 16 rows on CUDA: fp32), best of 5 rounds, in the"
        " same process",
    ),
    MetricDefinition(
        name="latency.decode.read_bytes",
        unit="B",
        better="neither",
        title="bytes a decode step reads at least",
        formula="all weights as stored, quantization state included, but embeddings that are looked"
        " up, and the cache at half its growth; of a mixture's experts as many as one token is sent"
        " to, which is what a batch reads when all its tokens are sent to the same",
    ),
    MetricDefinition(
        name="latency.decode.read_floor",
        unit="s",
        better="neither",
        title="decode floor",
        formula="latency.decode.read_bytes / latency.read_bandwidth",
    ),
    MetricDefinition(
        name="latency.decode.read_share",
        unit="1",
        varies_by="process",
        better="higher",
        title="share of the decode floor reached",
        formula="latency.decode.read_floor / latency.decode",
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
        name="latency.decode.operations",
        unit="FLOP",
        better="neither",
        title="operations of a decode step",
        formula="as latency.prefill.operations, of one new token of the whole batch: the mean over"
        " the new tokens",
    ),
    MetricDefinition(
        name="latency.prefill.matrix_share",
        unit="1",
        varies_by="process",
        better="higher",
        title="share of the matrix rate reached by prefill",
        formula="latency.prefill.operations / latency.prefill / latency.matrix_rate",
    ),
)
_MATRIX = 2
"""Dimensions of one expert's weight."""


@dataclass(frozen=True)
class Limits:
    """The metrics of one item, and what they were computed from."""

    metrics: tuple[Metric, ...]
    details: dict[str, Any]
    warnings: tuple[str, ...] = ()


def latency_limits(
    loaded: LoadedModel,
    point: GridPoint,
    *,
    prefill_s: float,
    decode_s: float,
    cache_bytes: int,
) -> Limits:
    """Holds the medians at a point against the device's measured rates.

    `decode_s` is of one new token of the whole batch, `cache_bytes` the size of the full cache.
    Measures the rates, so it must not run while anything is timed.
    """
    prompt, new = point.prompt_tokens, point.new_tokens
    dtype = multiplied_in(loaded, point.batch * point.prefill_parts[0])
    decoded = multiplied_in(loaded, point.batch)
    rate = matrix_rate(loaded.device, dtype)
    weight_bytes, not_known = weight_bytes_read(loaded.model)
    read_bytes = floor_s = None
    bandwidth = Rate(None, not_known)
    if weight_bytes is not None:
        read_bytes = weight_bytes + cache_bytes * (prompt + new / 2) / (prompt + new)
        bandwidth = read_bandwidth(loaded.device, read_bytes)
        floor_s = None if bandwidth.per_s is None else read_bytes / bandwidth.per_s
    operations, decoding, unknown = _operations(loaded, point)
    share = None
    if operations is not None and rate.per_s is not None:
        share = operations / prefill_s / rate.per_s
    found = {
        "read_bandwidth": (bandwidth.per_s, bandwidth.reason),
        "matrix_rate": (rate.per_s, rate.reason),
        "decode.read_bytes": (read_bytes, not_known),
        "decode.read_floor": (floor_s, bandwidth.reason),
        "decode.read_share": (None if floor_s is None else floor_s / decode_s, bandwidth.reason),
        "prefill.operations": (operations, unknown),
        "decode.operations": (decoding, unknown),
        "prefill.matrix_share": (share, unknown or rate.reason),
    }
    return Limits(
        tuple(
            make_metric(METRICS, f"latency.{name}", value, reason=reason)
            for name, (value, reason) in found.items()
        ),
        {"multiplied_in": dtype, "decode_multiplied_in": decoded, "cache_bytes": cache_bytes},
        _fallback_warnings(loaded, point.batch, dtype, decoded),
    )


def _fallback_warnings(
    loaded: LoadedModel, batch: int, prefill: str, decode: str
) -> tuple[str, ...]:
    """That the layers' int8 products are not what ran."""
    products = _products(loaded)
    if products is None or products.kind != "codes":
        return ()
    steps = [name for name, found in (("prefill", prefill), ("decode", decode)) if found != INT8]
    if not steps:
        return ()
    words = (
        f"{' and '.join(steps)} at batch {batch} multiplied in fp32, not int8: CUDA's kernel takes"
        f" more than {MOST_ROWS_IN_FP32} rows, and for fewer torchao converts codes and inputs at"
        f" each call; measure decode at batch {MOST_ROWS_IN_FP32 + 1} and more, or take weights"
        " alone in integers"
    )
    return (words,)


def multiplied_in(loaded: LoadedModel, rows: int) -> NumberType:
    """The type that the linear layers multiply so many rows in; the model's own if not known."""
    products = _products(loaded)
    if products is not None:
        return products.multiplied_in(loaded.device, rows)
    return float_type(str(loaded.model.dtype)) or FP32


def _products(loaded: LoadedModel) -> Products | None:
    return products_of(loaded.cell.precision, loaded.model.config.to_dict())


def _operations(loaded: LoadedModel, point: GridPoint) -> tuple[int | None, int | None, str | None]:
    """Of prefill and of a decode step; or None and the reason."""
    shape, unknown = sizes_of(loaded.model.config.to_dict())
    if shape is None:
        return None, None, unknown
    batch, prompt = point.batch, point.prompt_tokens
    head_tokens = len(point.prefill_parts) if keeps_logits(loaded.model) else prompt
    done = forward_operations(shape, batch=batch, tokens=prompt, head_tokens=head_tokens)
    step = decode_operations(shape, batch=batch, prompt=prompt, new=point.new_tokens)
    return done.total, step.total, None


def weight_bytes_read(model: PreTrainedModel) -> tuple[int | None, str | None]:
    """Bytes of all the tensors that one new token has to read once; or None and the reason."""
    from qbench.precisions.inventory import inventory

    experts, chosen = experts_of(model.config.to_dict())
    unread = _unread(model)
    total = 0
    for held in inventory(model):
        if held.tensor.data_ptr() in unread:
            continue
        size = held.tensor.untyped_storage().nbytes()
        if _is_of_experts(held, experts):
            if not chosen or not experts:
                return None, "the configuration does not say how many of its experts a token reads"
            size = size * chosen // experts
        total += size
    return total, None


def _unread(model: PreTrainedModel) -> set[int]:
    """Addresses of what no step reads as a whole: tables that are looked up, replaced modules."""
    from torch import nn

    modules: list[Any] = list(model.modules())
    unread = {layer.weight.data_ptr() for layer in modules if isinstance(layer, nn.Embedding)}
    for module in modules:
        if hasattr(module, "modules_to_save"):  # PEFT's, around a module that was trained whole
            unread |= {tensor.data_ptr() for tensor in module.original_module.parameters()}
    head: Any = model.get_output_embeddings()
    if head is not None:
        matrix: Any = inside(head) if hasattr(head, "token_adapter") else head
        unread.discard(matrix.weight.data_ptr())  # it may share an embedding's matrix
    return unread


def _is_of_experts(held: Held, experts: int | None) -> bool:
    """Whether a tensor holds experts: all of a layer, stacked, or one that has a module."""
    path = held.module.split(".")
    if "experts" in path:
        return True
    return experts is not None and held.tensor.dim() > _MATRIX and len(held.tensor) == experts
