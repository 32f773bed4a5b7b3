"""Predicted peaks with a quantized KV cache against the tensors that live while a model decodes."""

from __future__ import annotations

from typing import Any

import pytest

from qbench.finetune.train.live_bytes import LivePeak
from qbench.precisions import products_of, with_defaults
from qbench.precisions.inventory import inventory
from qbench.precisions.kv_cache import kv_caches
from qbench.precisions.kv_layers import held_tensors, make_cache
from qbench.predict.inference import HeldModel, InferenceBytes, predict_decode, predict_prefill
from qbench.predict.inference_layers import Kernels
from qbench.predict.quantized_cache import unknown_cache
from qbench.predict.stated_shapes import decoder_shape

TOLERANCE = 0.003
"""Share of the peak that may differ; found: fp8's scales and a few bytes of scalars."""
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 5,
    },
    "one key head": {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_head": 2, "n_layer": 4},
}


@pytest.mark.parametrize("kind", ["fp8", "int8", "int4", "int2"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(("dtype", "batch", "tokens"), [("fp32", 1, 160), ("bf16", 3, 64)])
def test_prefill_decode_and_the_step_that_quantizes_anew(
    kind: str, shape: str, dtype: str, batch: int, tokens: int
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        **SHAPES[shape], vocab_size=96, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    held_in = torch.float32 if dtype == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=held_in).eval()
    weights = [one.tensor for one in inventory(model)]
    static = sum(tensor.untyped_storage().nbytes() for tensor in weights)
    sizes, _ = decoder_shape(config.to_dict())
    products = products_of(with_defaults(dtype))
    assert sizes is not None
    assert products is not None
    held = HeldModel(
        sizes, products, static, cache=kv_caches()[kind], kernels=Kernels("cpu", unseen=False)
    )
    ids = torch.randint(90, (batch, tokens))
    one = ids[:, :1].clone()

    def step(cache: Any) -> int:
        kept = list(held_tensors(cache))
        with LivePeak("cpu", [*weights, *kept]) as live:
            del kept
            model(input_ids=one, past_key_values=cache, use_cache=True)
        return live.peak_bytes

    with torch.inference_mode():
        with LivePeak("cpu", weights) as prefill:
            cache = make_cache(kv_caches()[kind], model)
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        model(input_ids=one, past_key_values=cache, use_cache=True)
        second = step(cache)
        # Together, they are the newest tokens all the same.
        model(input_ids=one.repeat(1, 125), past_key_values=cache, use_cache=True)
        last = step(cache)

    def above(found: InferenceBytes) -> int:
        return found.total - static

    expected = above(predict_prefill(held, batch=batch, tokens=tokens))
    assert prefill.peak_bytes - static == pytest.approx(expected, rel=TOLERANCE)
    expected = above(predict_decode(held, batch=batch, tokens=tokens + 2, new_tokens=2))
    assert second - static == pytest.approx(expected, rel=TOLERANCE)
    expected = above(predict_decode(held, batch=batch, tokens=tokens + 128, new_tokens=128))
    assert last - static == pytest.approx(expected, rel=TOLERANCE)


def test_what_is_not_predicted_has_a_reason() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 2, "num_hidden_layers": 2}
    assert unknown_cache(kv_caches()["int4"], config) is None
    assert "quanto" in str(unknown_cache(kv_caches()["quanto-int4"], config))
    window = {**config, "model_type": "mistral", "sliding_window": 8}
    assert "sliding attention" in str(unknown_cache(kv_caches()["int4"], window))
