"""Predicted peaks of inference of every gated architecture, against the tensors that live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.finetune.train.live_bytes import LivePeak
from qbench.precisions.inventory import inventory
from qbench.precisions.products import floating
from qbench.predict.inference import HeldModel, predict_decode, predict_prefill, predict_scoring
from qbench.predict.inference_layers import Kernels
from qbench.predict.shapes import GATED_TYPES
from qbench.predict.stated_shapes import decoder_shape
from tests.live_peaks import prefill_and_decode
from tests.tiny_configs import tiny_config

if TYPE_CHECKING:
    from qbench.predict.inference import InferenceBytes

TOLERANCE = 0.002
CPU = Kernels(device="cpu", unseen=False)
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 300,
}
_OTHERS: dict[str, list[dict[str, Any]]] = {
    "qwen2": [{"use_sliding_window": False, "sliding_window": None}],
    "qwen3": [{"use_sliding_window": False, "sliding_window": None}, {"attention_bias": True}],
    "smollm3": [{"use_sliding_window": False, "sliding_window": None, "mlp_bias": True}],
    "phi3": [{"sliding_window": None}, {"sliding_window": 64}],
    "gemma3_text": [{"sliding_window": 64}, {"sliding_window": 512}],
    "mixtral": [{"sliding_window": None}, {"num_experts_per_tok": 3}],
    "qwen3_moe": [
        {"use_sliding_window": False, "sliding_window": None},
        {"mlp_only_layers": [5], "moe_intermediate_size": 24},
    ],
    "gemma2": [{"sliding_window": 512}, {"attn_logit_softcapping": None}],
    "olmo2": [{"num_key_value_heads": 8, "attention_bias": True}],
}
_CASES = [
    (name, {**_SIZES, **change}) for name in GATED_TYPES for change in ({}, *_OTHERS.get(name, ()))
]


def _made(architecture: str, changes: dict[str, Any], dtype: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**tiny_config(architecture), **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return model.eval().requires_grad_(requires_grad=False)


def _held(model: Any, dtype: Any) -> HeldModel:
    shape, reason = decoder_shape(model.config.to_dict())
    assert shape is not None, reason
    return HeldModel(shape, floating(dtype), 0, kernels=CPU)


def _above(found: InferenceBytes) -> int:
    return found.total - found.static


@pytest.mark.parametrize(("batch", "tokens"), [(2, 96), (1, 40)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("architecture", "changes"), _CASES)
def test_prefill_and_decode(
    architecture: str, changes: dict[str, Any], dtype: str, batch: int, tokens: int
) -> None:
    model = _made(architecture, changes, dtype)
    ids = torch.randint(2, 200, (batch, tokens), generator=torch.Generator().manual_seed(0))
    # Within inference mode, the parts of an attention's kernel would not be seen.
    with torch.no_grad():
        static, prefill, decode = prefill_and_decode(model, ids)
    predicted = _held(model, "bf16" if dtype == "bfloat16" else "fp32")
    first = _above(predict_prefill(predicted, batch=batch, tokens=tokens))
    last = _above(predict_decode(predicted, batch=batch, tokens=tokens + 2))
    assert prefill - static == pytest.approx(first, rel=TOLERANCE, abs=256)
    assert decode - static == pytest.approx(last, rel=TOLERANCE, abs=1024)


@pytest.mark.parametrize("architecture", GATED_TYPES)
def test_scoring_is_the_higher_of_body_and_logits(architecture: str) -> None:
    """Without the reference, the body's peak as it is seen, where the vocabulary is small."""
    model = _made(architecture, {**_SIZES, "vocab_size": 80}, "bfloat16")
    ids = torch.randint(2, 80, (2, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        held = [one.tensor for one in inventory(model)]
        with LivePeak("cpu", held) as body:
            model.model(input_ids=ids, use_cache=False)
    static = sum(tensor.untyped_storage().nbytes() for tensor in held)
    found = predict_scoring(_held(model, "bf16"), batch=2, tokens=96, compared=False)
    assert body.peak_bytes - static == pytest.approx(_above(found), rel=TOLERANCE, abs=256)
