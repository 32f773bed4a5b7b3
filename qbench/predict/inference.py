"""Peak bytes of inference from shapes alone: weights, cache, activations, logits.

No constant is fitted. What is not in it: cuBLAS' workspace (8 to 32 MiB), the rounding of each
allocation to 512 bytes, what the allocator cannot use of its blocks, and the CUDA context.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from qbench.core.number_types import FP32
from qbench.predict.cached_decoder import (
    ACTIVATIONS,
    DEQUANTIZED,
    KV_CACHE,
    LOGITS,
    Cache,
    CachedDecoder,
    Kernels,
)
from qbench.predict.tape import BATCH, Ledger, Storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.precisions.products import Products
    from qbench.predict.cached_decoder import Adapter
    from qbench.predict.shapes import DecoderShape
    from qbench.predict.tape import Bytes

CHUNK_TOKENS = 256
"""Positions whose logits exist at once where a text is scored. The same in every cell: other sizes
round differently."""
BLOCK_LOGITS = {"cpu": 2**18, "cuda": 2**23}
"""Logits that are taken to fp64 at once: on a CPU 2 MiB, which stay in its cache; on a GPU 64 MiB,
enough for its kernels to take longer than their launch."""
_FP32 = 4
_FP64 = 8
_ENOUGH_LAYERS = 3


@dataclass(frozen=True)
class HeldModel:
    """A model as it is held and computed."""

    shape: DecoderShape
    products: Products
    static: int
    """Bytes of its weights, quantization state and adapter."""
    window: int | None = None
    """Width of a sliding attention, None without one."""
    adapter: Adapter | None = None
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
    """The peak of one forward pass over a prompt that fills a cache, with the last logits."""

    def run(part: HeldModel) -> InferenceBytes:
        ledger = Ledger()
        decoder = _decoder(ledger, part, batch=batch, tokens=tokens, seen=tokens)
        decoder.run(Cache(part.shape.layers), 1)
        return _by_part("prefill", part, ledger)

    return _over_layers(model, run)


def predict_decode(model: HeldModel, *, batch: int, tokens: int) -> InferenceBytes:
    """The peak of decoding the last of `tokens` tokens, the others in the cache."""

    def run(part: HeldModel) -> InferenceBytes:
        ledger = Ledger()
        shape, window = part.shape, part.window
        row = batch * shape.kv_heads * shape.head_dim
        cache = Cache(shape.layers, None if window is None else (window - 1) * row)
        decoder = _decoder(ledger, part, batch=batch, tokens=1, seen=tokens)
        item = decoder.setup.rest_bytes
        before = (tokens - 1 if window is None else min(tokens - 1, window)) * row
        for layer in range(shape.layers):
            empty = decoder.tape.op(before, item)
            cache.join(decoder.tape, layer, empty, empty)
            del empty
        ledger.peak_bytes = 0  # what was there while the cache was made here is no part of a step
        decoder.run(cache, 1)
        return _by_part("decode", part, ledger)

    return _over_layers(model, run)


def predict_inference(
    model: HeldModel, *, batch: int, tokens: int, new_tokens: int = 0
) -> InferenceBytes:
    """The higher peak of prefill over `tokens` and of decoding `new_tokens` after it."""
    prefill = predict_prefill(model, batch=batch, tokens=tokens)
    if not new_tokens:
        return prefill
    decode = predict_decode(model, batch=batch, tokens=tokens + new_tokens)
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

    def run(part: HeldModel) -> InferenceBytes:
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

    return _over_layers(model, run)


def _over_layers(model: HeldModel, run: Callable[[HeldModel], InferenceBytes]) -> InferenceBytes:
    """The bytes of all layers from those of two and of three.

    The highest moment is in the last layer or after it, where each layer before has left the same:
    its keys and values. So what one more layer adds is always the same.
    """
    layers = model.shape.layers
    if layers <= _ENOUGH_LAYERS:
        return run(model)
    less, more = (
        run(replace(model, shape=replace(model.shape, layers=few)))
        for few in (_ENOUGH_LAYERS - 1, _ENOUGH_LAYERS)
    )
    added = more.kv_cache - less.kv_cache
    return replace(more, kv_cache=more.kv_cache + (layers - _ENOUGH_LAYERS) * added)


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
        masked=model.window is not None and tokens > 1 and seen >= model.window,
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
