"""Peak bytes of inference from shapes alone: weights, cache, activations, logits.

No constant is fitted. What is not in it: cuBLAS' workspace (8 to 32 MiB), the rounding of each
allocation to 512 bytes, what the allocator cannot use of its blocks, and the CUDA context.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from qbench.core.number_types import FP32
from qbench.predict.cached_decoder import KV_CACHE, LOGITS, Cache, CachedDecoder
from qbench.predict.inference_layers import ACTIVATIONS, DEQUANTIZED, Kernels
from qbench.predict.quantized_cache import QuantizedCache
from qbench.predict.tape import BATCH, Ledger, Storage

if TYPE_CHECKING:
    from qbench.precisions.kv_cache import KvCache
    from qbench.precisions.products import Products
    from qbench.predict.cached_decoder import Adapter
    from qbench.predict.shapes import DecoderShape, LayerSort
    from qbench.predict.tape import Bytes

CHUNK_TOKENS = 256
"""Positions whose logits exist at once where a text is scored. The same in every cell: other sizes
round differently."""
BLOCK_LOGITS = {"cpu": 2**18, "cuda": 2**23}
"""Logits that are taken to fp64 at once: on a CPU 2 MiB, which stay in its cache; on a GPU 64 MiB,
enough for its kernels to take longer than their launch."""
_FP32 = 4
_FP64 = 8


@dataclass(frozen=True)
class HeldModel:
    """A model as it is held and computed."""

    shape: DecoderShape
    products: Products
    static: int
    """Bytes of its weights, quantization state and adapter."""
    adapter: Adapter | None = None
    cache: KvCache | None = None
    """The kind of its quantized KV cache; None for one in its own type."""
    kernels: Kernels = field(default_factory=Kernels)


@dataclass(frozen=True)
class InferenceBytes:
    """The highest moment, by what takes it."""

    phase: Literal["prefill", "decode", "scoring"]
    static: int
    """Weights and quantization state."""
    kv_cache: int
    """2 · layers · key heads · head width · tokens · batch · bytes an element; while one layer's
    keys are joined with new ones, these twice."""
    activations: int
    """Hidden states and all temporaries of the widest moment; ids, rotary tables, a mask."""
    logits: int
    """Of the positions that logits are computed for: the last of each sequence."""
    dequantized_weight: int
    """A copy of one quantized layer's weights in the type that they are multiplied in."""

    @property
    def total(self) -> int:
        """The peak."""
        return (
            self.static + self.kv_cache + self.activations + self.logits + self.dequantized_weight
        )


def predict_prefill(model: HeldModel, *, batch: int, tokens: int) -> InferenceBytes:
    """The peak of one forward pass over a prompt that fills a cache, with the last logits.

    The windows of a cache hold views of the whole prompt until the next token.
    """
    if model.cache is not None:
        return _quantized(model, model.cache, batch=batch, tokens=tokens)
    part, others = _last_layers(model)
    ledger = Ledger()
    decoder = _decoder(ledger, part, batch=batch, tokens=tokens, seen=tokens)
    row = 2 * batch * part.shape.kv_heads * part.shape.head_dim * decoder.setup.rest_bytes
    _held = Storage(ledger, KV_CACHE, len(others) * tokens * row)
    decoder.run(Cache([None] * part.shape.layers), 1)
    return _by_part("prefill", part, ledger)


def predict_decode(
    model: HeldModel, *, batch: int, tokens: int, new_tokens: int = 1
) -> InferenceBytes:
    """The peak of decoding the last of `tokens` tokens, the others in the cache.

    `new_tokens` of them come one by one after a prompt: a quantized cache has the newest of these
    in the model's own type.
    """
    if model.cache is not None:
        return _quantized(model, model.cache, batch=batch, tokens=tokens, new_tokens=new_tokens)
    part, others = _last_layers(model)
    ledger, shape = Ledger(), part.shape
    row = batch * shape.kv_heads * shape.head_dim
    windows = [shape.sort(layer).window for layer in range(shape.layers)]
    cache = Cache([None if window is None else (window - 1) * row for window in windows])
    decoder = _decoder(ledger, part, batch=batch, tokens=1, seen=tokens)
    item = decoder.setup.rest_bytes
    joined = sum(min(tokens, sort.window or tokens) for sort in others)
    _held = Storage(ledger, KV_CACHE, 2 * joined * row * item)
    for layer, window in enumerate(windows):
        before = (tokens - 1 if window is None else min(tokens - 1, window)) * row
        empty = decoder.tape.op(before, item)
        cache.join(decoder.tape, layer, empty, empty)
        del empty
    ledger.peak_bytes = 0  # what was there while the cache was made here is no part of a step
    decoder.run(cache, 1)
    return _by_part("decode", part, ledger)


def _quantized(
    model: HeldModel, kind: KvCache, *, batch: int, tokens: int, new_tokens: int = 0
) -> InferenceBytes:
    """Of a prompt, or of the last token, with a quantized cache, whose layers see all tokens.

    Where a step quantizes the newest tokens anew the last step counts as such a one: it has a few
    tokens more than the last that is.
    """
    part, others = _last_layers(model)
    ledger, shape = Ledger(), part.shape
    row = batch * shape.kv_heads * shape.head_dim
    flushes = kind.is_grouped and new_tokens >= kind.residual_tokens
    on_cuda = model.kernels.device == "cuda"
    cache = QuantizedCache(shape, kind, on_cuda=on_cuda, flushes=flushes)
    here = 1 if new_tokens else tokens
    decoder = _decoder(ledger, part, batch=batch, tokens=here, seen=tokens)
    item = decoder.setup.rest_bytes
    newest = kind.residual_tokens - 1 if flushes else kind.residual(max(0, new_tokens - 1))
    # The highest moment is in the last layer, which all before have left with the new token; where
    # the newest tokens are quantized, in the first, before all others have done it.
    left, seen = (newest, tokens - 1) if flushes else (kind.residual(new_tokens), tokens)
    widths = (shape.head_dim, shape.head_dim)
    size = kind.layer_bytes(
        shape.kv_heads, widths, batch=batch, coded=seen - left, residual=left, item=item
    )
    _held = Storage(ledger, KV_CACHE, len(others) * (size or 0))
    if new_tokens:
        for layer in range(shape.layers):
            cache.fill(decoder.tape, layer, (tokens - 1 - newest) * row, newest * row, item)
    ledger.peak_bytes = 0
    decoder.run(cache, 1)
    return _by_part("decode" if new_tokens else "prefill", part, ledger)


def predict_inference(
    model: HeldModel, *, batch: int, tokens: int, new_tokens: int = 0
) -> InferenceBytes:
    """The higher peak of prefill over `tokens` and of decoding `new_tokens` after it."""
    prefill = predict_prefill(model, batch=batch, tokens=tokens)
    if not new_tokens:
        return prefill
    decode = predict_decode(model, batch=batch, tokens=tokens + new_tokens, new_tokens=new_tokens)
    return max(prefill, decode, key=lambda phase: phase.total)


def block_rows(vocabulary: int, device: str) -> int:
    """Positions whose logits are taken to fp64 together on a kind of device."""
    return max(1, BLOCK_LOGITS["cuda" if device == "cuda" else "cpu"] // vocabulary)


def predict_scoring(
    model: HeldModel, *, batch: int, tokens: int, compared: bool = True
) -> InferenceBytes:
    """The peak of scoring a text: the body on a batch of windows, then logits chunk by chunk.

    Of `CHUNK_TOKENS` positions at once there are the logits in the cell's own type and in fp32;
    where cells are `compared` the reference's in fp32 besides, its head (counted in the cell's own
    type), and the body runs once more under the plain attention kernel, with all of its scores,
    beside the final states of the first run. Of a block of positions there are the logits and their
    log-softmax in fp64, and where cells are compared the other side's log-softmax.
    """
    part, _ = _last_layers(model)
    ledger = Ledger()

    def states(attention: Literal["sdpa", "eager"]) -> Bytes:
        decoder = _decoder(
            ledger, part, batch=batch, tokens=tokens, seen=tokens, attention=attention
        )
        return decoder.states()

    vocabulary, sides = part.shape.vocabulary, 2 if compared else 1
    first = states("sdpa")
    reference = part.shape.hidden * vocabulary * first.item_bytes if compared else 0
    _head = Storage(ledger, LOGITS, reference)
    again = states("eager") if compared else None
    _ids = Storage(ledger, BATCH, batch * tokens * 8)
    positions = min(tokens - 1, CHUNK_TOKENS)
    own = 0 if part.products.rest == FP32 else first.item_bytes
    narrow = Storage(ledger, LOGITS, positions * vocabulary * own)
    logits = Storage(ledger, LOGITS, positions * vocabulary * sides * _FP32)
    del narrow
    rows = min(positions, block_rows(vocabulary, part.kernels.device))
    # Without a reference the log-softmax is within one operation, the cross entropy.
    copies = 3 if compared else 1 + part.kernels.unseen
    block = Storage(ledger, LOGITS, rows * vocabulary * copies * _FP64)
    del logits, block, first, again
    return _by_part("scoring", part, ledger)


def _last_layers(model: HeldModel) -> tuple[HeldModel, list[LayerSort]]:
    """The model's last layers alone, with one of each sort, and the sorts of the others.

    Each layer leaves its keys and values, and takes what all of its sort take besides. So the
    highest moment is in the last layer of some sort, or after it. One layer stands before these, as
    the first layer's input is the embedding, which is held to the end anyway.
    """
    shape = model.shape
    sorts = [shape.sort(layer) for layer in range(shape.layers)]
    first = min(len(sorts) - 1 - sorts[::-1].index(sort) for sort in set(sorts))
    start = max(0, first - 1)
    part = replace(shape, layers=len(sorts) - start, sorts=tuple(sorts[start:]))
    return replace(model, shape=part), sorts[:start]


def _decoder(
    ledger: Ledger,
    model: HeldModel,
    *,
    batch: int,
    tokens: int,
    seen: int,
    attention: Literal["sdpa", "eager"] = "sdpa",
) -> CachedDecoder:
    return CachedDecoder(
        ledger,
        model.shape,
        model.products,
        model.kernels,
        batch=batch,
        tokens=tokens,
        seen=seen,
        attention=attention,
        adapter=model.adapter,
    )


def _by_part(
    phase: Literal["prefill", "decode", "scoring"], model: HeldModel, ledger: Ledger
) -> InferenceBytes:
    peak = ledger.peak
    return InferenceBytes(
        phase=phase,
        static=model.static,
        kv_cache=peak[KV_CACHE],
        activations=peak[ACTIVATIONS] + peak[BATCH],
        logits=peak[LOGITS],
        dequantized_weight=peak[DEQUANTIZED],
    )
