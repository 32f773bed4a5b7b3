"""Peak bytes of inference from shapes alone: weights, cache, activations, logits.

No constant is fitted. What is not in it: cuBLAS' workspace (8 to 32 MiB), the rounding of each
allocation to 512 bytes, what the allocator cannot use of its blocks, and the CUDA context.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from qbench.core.number_types import FP32
from qbench.predict.cached_decoder import KV_CACHE, LOGITS, Cache, CachedDecoder
from qbench.predict.inference_layers import ACTIVATIONS, DEQUANTIZED, Kernels
from qbench.predict.quantized_cache import QuantizedCache
from qbench.predict.tape import BATCH, Ledger, Storage
from qbench.predict.work import parts_of

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
    by_name: tuple[tuple[str, Products], ...] = ()
    """How single layers of every block multiply, by their names in it, where not all do alike."""


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


def predict_prefill(
    model: HeldModel, *, batch: int, tokens: int, chunk: int | None = None
) -> InferenceBytes:
    """The peak of the forward passes over a prompt that fill a cache, with the last logits of each.

    One pass, or one over each `chunk` tokens on the cache that those before left. The windows of a
    cache hold views of all that was joined for a pass until the next.
    """
    parts = parts_of(tokens, chunk)
    if len(parts) > 1:
        passes = (_on_cache(model, batch, parts, at) for at in _highest_parts(model, parts))
        return max(passes, key=_total)
    if model.cache is not None:
        return _quantized(model, model.cache, batch=batch, seen=tokens, here=tokens)
    part, others = _last_layers(model)
    ledger = Ledger()
    decoder = _decoder(ledger, part, batch=batch, tokens=tokens, seen=tokens)
    row = 2 * batch * part.shape.kv_heads * part.shape.head_dim * decoder.setup.rest_bytes
    _held = Storage(ledger, KV_CACHE, len(others) * tokens * row)
    decoder.run(Cache([None] * part.shape.layers), 1)
    return _by_part("prefill", part, ledger)


def predict_decode(
    model: HeldModel, *, batch: int, tokens: int, new_tokens: int = 1, chunk: int | None = None
) -> InferenceBytes:
    """The peak of decoding the last of `tokens` tokens, the others in the cache.

    `new_tokens` of them come one by one after a prompt, which was read `chunk` tokens at once: a
    quantized cache has the newest of these in the model's own type. Where a step quantizes them
    anew the last step counts as such a one: it has a few tokens more than the last that is.
    """
    kind = model.cache
    if kind is None:
        return _own(model, batch=batch, seen=tokens, here=1, here_before=1)
    later = parts_of(max(1, tokens - new_tokens), chunk)[1:]
    flushes = kind.is_grouped and kind.residual(0, later) + new_tokens >= kind.residual_tokens
    newest = kind.residual_tokens - 1 if flushes else kind.residual(max(0, new_tokens - 1), later)
    return _quantized(model, kind, batch=batch, seen=tokens, here=1, newest=newest, flushes=flushes)


def _highest_parts(model: HeldModel, parts: tuple[int, ...]) -> set[int]:
    """Places of the forwards among which the highest is: after each there is more in the cache.

    The last, the last that is as long as all before, and the last that quantizes all anew.
    """
    last, kind = len(parts) - 1, model.cache
    found = {last, max(1, last - 1)}
    if kind is not None:
        anew = (at for at in range(last, 0, -1) if _flushes(kind, parts[: at + 1]))
        found |= set(islice(anew, 1))
    return found


def _on_cache(model: HeldModel, batch: int, parts: tuple[int, ...], at: int) -> InferenceBytes:
    """Of a forward over one part of a prompt, after those before it."""
    seen, here, kind = sum(parts[: at + 1]), parts[at], model.cache
    if kind is None:
        own = _own(model, batch=batch, seen=seen, here=here, here_before=parts[at - 1])
        return replace(own, phase="prefill")
    newest = kind.residual(0, parts[1:at])
    flushes = _flushes(kind, parts[: at + 1])
    found = _quantized(
        model, kind, batch=batch, seen=seen, here=here, newest=newest, flushes=flushes
    )
    return replace(found, phase="prefill")


def _flushes(kind: KvCache, parts: tuple[int, ...]) -> bool:
    """Whether the last of these forwards quantizes all that is in the model's own type."""
    if not kind.is_grouped or len(parts) == 1:
        return False
    return kind.residual(0, parts[1:-1]) + parts[-1] >= kind.residual_tokens


def _own(model: HeldModel, *, batch: int, seen: int, here: int, here_before: int) -> InferenceBytes:
    """Of a forward over `here` tokens on a cache in the model's own type, after one over others."""
    part, others = _last_layers(model)
    ledger, shape = Ledger(), part.shape
    row = batch * shape.kv_heads * shape.head_dim
    windows = [shape.sort(layer).window for layer in range(shape.layers)]
    cache = Cache([None if window is None else (window - 1) * row for window in windows])
    decoder = _decoder(ledger, part, batch=batch, tokens=here, seen=seen)
    item = decoder.setup.rest_bytes
    joined = sum(_within(seen, sort.window, here) for sort in others)
    _held = Storage(ledger, KV_CACHE, 2 * joined * row * item)
    for layer, window in enumerate(windows):
        before = _within(seen - here, window, here_before) * row
        empty = decoder.tape.op(before, item)
        cache.join(decoder.tape, layer, empty, empty)
        del empty
    ledger.peak_bytes = 0  # what was there while the cache was made here is no part of a step
    decoder.run(cache, 1)
    return _by_part("decode", part, ledger)


def _within(tokens: int, window: int | None, last: int) -> int:
    """Tokens whose keys a layer holds after a forward over `last` of them."""
    return tokens if window is None else min(tokens, window - 1 + last)


def _quantized(
    model: HeldModel,
    kind: KvCache,
    *,
    batch: int,
    seen: int,
    here: int,
    newest: int = 0,
    flushes: bool = False,
) -> InferenceBytes:
    """Of a forward over the last `here` of `seen` tokens, with a quantized cache of those before.

    Its layers see all tokens; `newest` of those before are in the model's own type.
    """
    part, others = _last_layers(model)
    ledger, shape = Ledger(), part.shape
    row = batch * shape.kv_heads * shape.head_dim
    on_cuda = model.kernels.device == "cuda"
    cache = QuantizedCache(shape, kind, on_cuda=on_cuda, flushes=flushes)
    decoder = _decoder(ledger, part, batch=batch, tokens=here, seen=seen)
    item, before = decoder.setup.rest_bytes, seen - here

    def held_by(tokens: int, residual: int) -> int:
        heads, widths = shape.kv_heads, (shape.head_dim, shape.head_dim)
        coded = tokens - residual
        size = kind.layer_bytes(
            heads, widths, batch=batch, coded=coded, residual=residual, item=item
        )
        return len(others) * (size or 0)

    # The highest moment is in the last layer, which all before have left with the new tokens; where
    # few tokens have the newest quantized, in the first, before all others have done it.
    left = newest + here if kind.is_grouped and before and not flushes else 0
    of_others = held_by(seen, left)
    _held = Storage(
        ledger, KV_CACHE, max(of_others, held_by(before, newest)) if flushes else of_others
    )
    if before:
        for layer in range(shape.layers):
            cache.fill(decoder.tape, layer, (before - newest) * row, newest * row, item)
    ledger.peak_bytes = 0
    decoder.run(cache, 1)
    return _by_part("decode" if before else "prefill", part, ledger)


def predict_inference(
    model: HeldModel, *, batch: int, tokens: int, new_tokens: int = 0, chunk: int | None = None
) -> InferenceBytes:
    """The higher peak of prefill over `tokens`, and of decoding `new_tokens` after it."""
    prefill = predict_prefill(model, batch=batch, tokens=tokens, chunk=chunk)
    if not new_tokens:
        return prefill
    decode = predict_decode(
        model, batch=batch, tokens=tokens + new_tokens, new_tokens=new_tokens, chunk=chunk
    )
    return max(prefill, decode, key=_total)


def _total(found: InferenceBytes) -> int:
    return found.total


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
    # Kept of each token of the windows before: its loss, and what it is beside the reference's. Of
    # the last window there is one of them so far.
    figures = (batch - 1) * (6 if compared else 1) + 1
    _kept = Storage(ledger, BATCH, figures * (tokens - 1) * _FP64)
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
        by_name=dict(model.by_name),
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
