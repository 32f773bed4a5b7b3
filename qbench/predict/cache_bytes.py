"""Bytes of the KV cache, quantized or not, by arithmetic from config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.kv_cache import not_taken
from qbench.predict.kv_cache import cache_layers
from qbench.predict.work import parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.precisions.kv_cache import KvCache

_NOT_PACKED = "its keys and values cannot be packed into so few bits in groups; take kv_cache: fp8"


def cache_bytes(
    config: Mapping[str, Any],
    kind: KvCache | None,
    *,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    item: int,
    prefill_chunk: int | None = None,
) -> tuple[int | None, str | None]:
    """What the cache keeps after a prompt and tokens decoded one by one; None and the reason.

    `kind` None: in the model's own type, of which an element takes `item` bytes. As quantized
    caches are filled, the prompt is codes, and of the tokens after it all but the last ones; of a
    prompt that is read in chunks, the first chunk is.
    """
    layers, reason = cache_layers(config)
    if layers is None:
        return None, reason
    tokens = prompt_tokens + new_tokens
    if kind is None:
        return batch * item * sum(layer.of(tokens).total for layer in layers), None
    reason = cache_misfit(config, kind)
    if reason is not None:
        return None, reason
    residual = kind.residual(new_tokens, parts_of(prompt_tokens, prefill_chunk)[1:])
    total = 0
    for layer in layers:
        size = kind.layer_bytes(
            layer.heads,
            (layer.key_width, layer.value_width),
            batch=batch,
            coded=tokens - residual,
            residual=residual,
            item=item,
        )
        total += size or 0
    return total, None


def cache_misfit(config: Mapping[str, Any], kind: KvCache) -> str | None:
    """Why a model's cache cannot be of that kind; None if it can, or is not known here."""
    layers, _ = cache_layers(config)
    if layers is None:
        return None
    others = sorted({layer.kind for layer in layers} - {"full", "latent"})
    if others:
        return not_taken([f"{one} attention" for one in others])
    packed = (
        not kind.is_grouped or kind.group(layer.heads, (layer.key_width, layer.value_width))
        for layer in layers
    )
    return None if all(packed) else _NOT_PACKED
