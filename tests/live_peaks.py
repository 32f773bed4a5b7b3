"""Peaks of a model that decodes, by the tensors that live: what predictions are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.finetune.train.live_bytes import LivePeak
from qbench.precisions.inventory import inventory

if TYPE_CHECKING:
    import torch


def prefill_and_decode(model: Any, ids: torch.Tensor) -> tuple[int, int, int]:
    """Bytes of the model, of the highest moment of a prompt, and of that of a decoded token.

    The token is the second after the prompt. Gradients are left out by whoever calls.
    """
    more = ids[:, :1].clone()
    held = [one.tensor for one in inventory(model)]
    with LivePeak("cpu", held) as prefill:
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    model(input_ids=more, past_key_values=cache, use_cache=True)
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    with LivePeak("cpu", [*held, *kept]) as decode:
        del kept
        model(input_ids=more, past_key_values=cache, use_cache=True)
    static = sum(tensor.untyped_storage().nbytes() for tensor in held)
    return static, prefill.peak_bytes, decode.peak_bytes
