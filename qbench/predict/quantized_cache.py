"""A quantized KV cache on a tape of bytes: what transformers' layers take beside what they keep.

A prompt's keys and values are quantized as they come. At each later token all of a layer's are
dequantized and joined with the new ones, and live until its attention has read them. What happens
within is that of transformers' `Fp8QuantizedLayer`, and of its `HQQQuantizedLayer` with hqq's
quantizer, whose search for zero points holds eight copies of what it quantizes: in fp32 on a CPU,
in fp16 on CUDA, beside the values in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.predict.cache_bytes import cache_misfit
from qbench.predict.cached_decoder import KV_CACHE, Cache
from qbench.predict.linear import FP32, HALF
from qbench.predict.tape import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.precisions.kv_cache import KvCache
    from qbench.predict.shapes import DecoderShape
    from qbench.predict.tape import Bytes, Tape

_SEARCH_COPIES = 8
"""`W_q` and `W_r` of two turns of hqq's search, and four within its shrinking of the error."""
_CONSTANTS = 6
"""fp32 numbers of each group there: least, largest, range, scale, zero points of two turns."""


def unknown_cache(kind: KvCache | None, config: Mapping[str, Any]) -> str | None:
    """Why a model's peak with a kind of cache is not predicted; None if it is."""
    misfit = None if kind is None else cache_misfit(config, kind)
    if kind is None or misfit is not None or kind.is_counted:
        return misfit
    return f"what {kind.backend} takes while it quantizes a KV cache is not predicted"


@dataclass
class _Layer:
    """What a layer keeps of keys, or of values."""

    codes: Storage
    elements: int
    """In codes."""
    newest: Bytes | None = None
    """The tokens that are still in the model's own type."""


class QuantizedCache(Cache):
    """Keys and values of each layer as codes, and the newest of them in the model's own type."""

    def __init__(
        self, shape: DecoderShape, kind: KvCache, *, on_cuda: bool, flushes: bool = False
    ) -> None:
        """`flushes`: whether the tokens to be joined fill up what is quantized anew then."""
        super().__init__([None] * shape.layers)
        self._kind, self._on_cuda, self._flushes = kind, on_cuda, flushes
        self._contiguous = shape.kv_heads == 1
        self._group = kind.group(shape.kv_heads, (shape.head_dim,)) or 1
        self._layers: list[tuple[_Layer, _Layer] | None] = [None] * shape.layers

    def fill(self, tape: Tape, layer: int, coded: int, newest: int, item_bytes: int) -> None:
        """What is kept of the tokens before: elements of keys, and as many of values, of each."""
        part, tape.part = tape.part, KV_CACHE
        self._layers[layer] = (
            self._made(tape, coded, newest, item_bytes),
            self._made(tape, coded, newest, item_bytes),
        )
        tape.part = part

    def join(self, tape: Tape, layer: int, key: Bytes, value: Bytes) -> tuple[Bytes, Bytes]:
        """The layer's keys and values as they are read, with the new ones behind them."""
        part, tape.part = tape.part, KV_CACHE
        held = self._layers[layer]
        if held is None:
            whole = self._contiguous or not self._kind.is_grouped
            keys = self._quantized(tape, key, copied=not whole)
            self._layers[layer] = (keys, self._quantized(tape, value, copied=not whole))
            joined = key, value
        elif self._kind.is_grouped:
            joined = self._joined_groups(tape, held, key, value)
        else:
            joined = self._appended(tape, layer, held, key, value)
        tape.part = part
        return joined

    def _joined_groups(
        self, tape: Tape, held: tuple[_Layer, _Layer], key: Bytes, value: Bytes
    ) -> tuple[Bytes, Bytes]:
        read = [self._dequantized(tape, one, key.item_bytes) for one in held]
        joined = []
        for one, new in zip(held, (key, value), strict=True):
            newest = one.newest.elements if one.newest else 0
            joined.append(tape.op(one.elements + newest + new.elements, new.item_bytes))
        if self._flushes:
            # The old codes stand until the new ones are made, the newest tokens until both are.
            for one, whole in zip(held, joined, strict=True):
                one.codes = self._quantized(tape, whole, copied=False).codes
                one.elements = whole.elements
            for one in held:
                one.newest = None
        else:
            for one, new in zip(held, (key, value), strict=True):
                newest = one.newest.elements if one.newest else 0
                one.newest = tape.op(newest + new.elements, new.item_bytes)
        del read
        return joined[0], joined[1]

    def _appended(
        self, tape: Tape, layer: int, held: tuple[_Layer, _Layer], key: Bytes, value: Bytes
    ) -> tuple[Bytes, Bytes]:
        """The old codes, and those that are put behind them, stand beside all until it is read."""
        _behind = [self._quantized(tape, new, copied=False) for new in (key, value)]
        made = tuple(
            self._made(tape, one.elements + new.elements, 0, new.item_bytes)
            for one, new in zip(held, (key, value), strict=True)
        )
        self._layers[layer] = (made[0], made[1])
        keys = self._dequantized(tape, made[0], key.item_bytes)
        return keys, self._dequantized(tape, made[1], value.item_bytes)

    def _made(self, tape: Tape, coded: int, newest: int, item_bytes: int) -> _Layer:
        constants = 2 * coded // self._group * item_bytes if self._kind.is_grouped else FP32
        codes = Storage(tape.ledger, KV_CACHE, coded * self._kind.bits // 8 + constants)
        return _Layer(codes, coded, tape.op(newest, item_bytes) if newest else None)

    def _quantized(self, tape: Tape, given: Bytes, *, copied: bool) -> _Layer:
        """Codes of what is given, which is copied first where it is not contiguous."""
        elements, item = given.elements, given.item_bytes
        wide = 0 if item == FP32 else FP32 * elements
        size = item * elements if copied else 0
        if self._kind.is_grouped:
            search = HALF if self._on_cuda else FP32
            size += wide + (_SEARCH_COPIES + self._on_cuda) * search * elements
            size += _CONSTANTS * FP32 * elements // self._group
        else:
            size += wide + FP32 * elements
        Storage(tape.ledger, KV_CACHE, size)
        return self._made(tape, elements, 0, item)

    def _dequantized(self, tape: Tape, held: _Layer, item_bytes: int) -> Bytes:
        """hqq: unpacked, less the zero points, times the scales; fp8: in fp32, times the scale."""
        elements = held.elements
        size = 3 * item_bytes * elements if self._kind.is_grouped else 2 * FP32 * elements
        Storage(tape.ledger, KV_CACHE, size)
        return tape.op(elements, item_bytes)
