"""Prefill and decode on a tape of bytes: a cache, quantized layers, and the attention's kernels.

The blocks are those of `qbench.predict.decoder`, whose temporaries live as long as in the
modules of transformers. No weight is trained, so nothing is kept for a backward pass. The cache is
transformers' `DynamicCache`: each layer's keys and values are joined with the new ones into new
tensors, beside which the old ones stand until the joining is done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from qbench.core import number_types
from qbench.predict.decoder import Decoder
from qbench.predict.inference_layers import ACTIVATIONS, InferenceAttention, InferenceLinears
from qbench.predict.linear import FP32, Linears
from qbench.predict.shapes import TrainingSetup
from qbench.predict.tape import BATCH, Bytes, Tape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.precisions.products import Products
    from qbench.predict.decoder import Masks, Tables
    from qbench.predict.inference_layers import Kernels
    from qbench.predict.shapes import DecoderShape, LayerSort
    from qbench.predict.tape import Ledger

KV_CACHE = "kv_cache"
LOGITS = "logits"


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter that is attached while the model is used."""

    targets: frozenset[str]
    """Last names of the layers that have it (`q_proj`)."""
    rank: int
    item_bytes: int


class Cache:
    """Keys and values of each layer, of the tokens so far.

    `most_elements` is what a layer's sliding window keeps of either, None without one. Where there
    is one the old values stand until the new keys and values are both made; else only until the
    values.
    """

    def __init__(self, most_elements: Sequence[int | None]) -> None:
        self._held: list[tuple[Bytes, Bytes] | None] = [None] * len(most_elements)
        self._most_elements = tuple(most_elements)

    def join(self, tape: Tape, layer: int, key: Bytes, value: Bytes) -> tuple[Bytes, Bytes]:
        """The layer's keys and values with the new ones behind them."""
        old, most = self._held[layer], self._most_elements[layer]
        part, tape.part = tape.part, KV_CACHE
        before = old[0].elements if old else 0
        if most is not None:
            before = min(before, most)
        keys = tape.op(before + key.elements, key.item_bytes)
        if old and most is None:
            self._held[layer] = (keys, old[1])
            del old
        values = tape.op(before + value.elements, value.item_bytes)
        self._held[layer] = (keys, values)
        tape.part = part
        return keys, values


class CachedDecoder(Decoder):
    """A decoder that runs forward alone, on a cache or without one."""

    def __init__(
        self,
        ledger: Ledger,
        shape: DecoderShape,
        products: Products,
        kernels: Kernels,
        *,
        batch: int,
        tokens: int,
        seen: int = 0,
        attention: Literal["sdpa", "eager"] = "sdpa",
        adapter: Adapter | None = None,
        by_name: Mapping[str, Products] | None = None,
    ) -> None:
        setup = TrainingSetup(
            batch=batch,
            tokens=tokens,
            method="lora",
            targets=frozenset() if adapter is None else adapter.targets,
            rank=0 if adapter is None else adapter.rank,
            products=products,
            compute=number_types.FP32,  # no autocast
            attention="eager" if shape.holds_scores else attention,
            device="cuda" if kernels.device == "cuda" else "cpu",
        )
        self._kernels, self._seen = kernels, seen
        self._by_name = by_name or {}
        self._adapter_bytes = FP32 if adapter is None else adapter.item_bytes
        shape = replace(shape, residual_dropout=False, attention_dropout=False)
        super().__init__(Tape(ledger), shape, setup)
        self.attention: InferenceAttention
        self._cache: Cache | None = None
        self._layer_at = 0

    def _make_linears(self) -> Linears:
        return InferenceLinears(
            self.tape, self.setup, self._kernels, self._adapter_bytes, self._by_name
        )

    def _make_attention(self) -> InferenceAttention:
        return InferenceAttention(self.linears, self.shape, self.setup, self._kernels)

    def run(self, cache: Cache | None, logits_of: int) -> Bytes:
        """One forward pass with the logits of the last `logits_of` tokens of each sequence."""
        self._cache, self._layer_at = cache, 0
        states = self._states()
        self.tape.part = LOGITS
        kept = self.setup.batch * logits_of * self.shape.hidden
        shown = self.tape.op(kept, states.item_bytes, [states], view_of=states)
        logits = self.linears.multiply(shown, self._head, None, self.shape.vocabulary)
        for _ in range(3 if self.shape.capped_logits else 0):  # divided, its tanh, multiplied
            logits = self.tape.op(logits.elements, logits.item_bytes, [logits])
        return logits

    def states(self) -> Bytes:
        """One forward pass of the body alone, without a cache: the final hidden states."""
        self._cache, self._layer_at = None, 0
        return self._states()

    def _states(self) -> Bytes:
        tape = self.tape
        tape.part = BATCH
        _ids = tape.op(self.tokens, 8)
        tape.part = ACTIVATIONS
        hidden, *_embedded = self._embed()
        _places = tape.op(self.setup.tokens, 8)
        tables = self._rotary_tables(hidden.item_bytes)
        masks = self._masks(hidden.item_bytes)
        for index, weights in enumerate(self._layers):
            hidden = self._layer(hidden, weights, self.shape.sort(index), tables, masks)
        return self.norm(hidden, self._last_norm, "norm")

    def _layer(
        self,
        hidden: Bytes,
        weights: dict[str, Bytes],
        sort: LayerSort,
        tables: Tables,
        masks: Masks,
    ) -> Bytes:
        made = super()._layer(hidden, weights, sort, tables, masks)
        self.attention.returned = None
        return made

    def _masks(self, item_bytes: int) -> dict[bool, Bytes | None]:
        """As in training, but flags are (1, 1, tokens, tokens seen): nothing is padded.

        Only a window that hides some token needs flags, and tokens that come together behind
        others. A layer with a window is given its last tokens, and all that come.
        """
        tape, tokens = self.tape, self.setup.tokens
        seen, count = max(self._seen, tokens), self.shape.layers
        windows = [sort.window for sort in self.shape.sorts if sort.window is not None]
        within = min([seen, *(window - 1 + tokens for window in windows)])
        if self.setup.attention != "eager":
            behind = 1 < tokens < seen
            hides = tokens > 1 and any(seen >= window for window in windows)
            every = tape.op(tokens * seen, 1) if behind and len(windows) < count else None
            flags = windows and (behind or hides)
            return {False: every, True: tape.op(tokens * within, 1) if flags else None}

        def numbers(keys: int) -> Bytes:
            return tape.op(self.tokens * keys, item_bytes)

        if len(windows) in {0, count}:
            every = numbers(within)
            return {False: every, True: every}
        return {False: numbers(seen), True: numbers(within)}

    def _joined(self, key: Bytes, value: Bytes) -> tuple[Bytes, Bytes]:
        """Behind those of the tokens before, where there is a cache."""
        if self._cache is None:
            return key, value
        joined = self._cache.join(self.tape, self._layer_at, key, value)
        self._layer_at += 1
        return joined
