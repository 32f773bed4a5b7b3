"""Peaks of a prompt that is read in chunks, against the tensors that live while a model does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.finetune.train.live_bytes import LivePeak
from qbench.measures.workload import Workload
from qbench.precisions import products_of, with_defaults
from qbench.precisions.inventory import inventory
from qbench.precisions.kv_cache import kv_cache_named
from qbench.precisions.kv_layers import held_bytes, held_tensors, make_cache
from qbench.predict.cache_bytes import cache_bytes
from qbench.predict.inference import HeldModel, predict_decode, predict_prefill
from qbench.predict.inference_layers import Kernels
from qbench.predict.stated_shapes import decoder_shape

if TYPE_CHECKING:
    from qbench.precisions.kv_cache import KvCache

TOLERANCE = 0.003
ID_BYTES = 8
"""Each forward's ids are a view of all that come."""
SLACK_BYTES = ID_BYTES + 4 * 4
"""A token that comes: its id, counted in both, and a log-sum-exp a head, which is seen or not."""
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
}
GEMMA: dict[str, Any] = {
    **LLAMA,
    "model_type": "gemma3_text",
    "num_hidden_layers": 4,
    "sliding_window": 40,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen3": {**LLAMA, "model_type": "qwen3"},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 4},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 40},
    "windows and none": GEMMA,
}


class _Case:
    """A model on a CPU, and what is predicted of it."""

    def __init__(
        self, name: str, dtype: str, kind: KvCache | None = None, *, masks: bool = False
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            **MODELS[name],
            vocab_size=96,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        held_in = torch.float32 if dtype == "fp32" else torch.bfloat16
        self.model: Any = AutoModelForCausalLM.from_config(config, dtype=held_in).eval()
        self.kind = kind
        self.weights = [one.tensor for one in inventory(self.model)]
        self.static = sum(tensor.untyped_storage().nbytes() for tensor in self.weights)
        self.config = config.to_dict()
        shape, reason = decoder_shape(self.config)
        assert shape is not None, reason
        products = products_of(with_defaults(dtype))
        assert products is not None
        kernels = Kernels("cpu", unseen=False, masks=masks)
        self.held = HeldModel(shape, products, self.static, cache=kind, kernels=kernels)

    def work(self, batch: int, tokens: int, new_tokens: int, chunk: int | None) -> Workload:
        ids = torch.randint(90, (batch, tokens + new_tokens))
        return Workload(ids[:, :tokens], ids[:, tokens:].contiguous(), chunk)

    def cache(self) -> Any:
        return None if self.kind is None else make_cache(self.kind, self.model)


SIZES = [
    # batch, tokens, chunk: chunks of equal length, one that is shorter, of one token, two tokens
    (2, 96, 48),
    (1, 200, 64),
    (2, 129, 64),
    (1, 130, 8),
]


@pytest.mark.parametrize(
    ("dtype", "mode"), [("fp32", torch.inference_mode), ("bf16", torch.no_grad)]
)
@pytest.mark.parametrize("name", list(MODELS))
def test_prefill_and_the_token_after_it(name: str, dtype: str, mode: Any) -> None:
    """In inference mode, a mask's numbers are within one operation, and not seen."""
    case = _Case(name, dtype, masks=mode is torch.no_grad)
    for batch, tokens, chunk in SIZES:
        work = case.work(batch, tokens, 2, chunk)
        with mode():
            with LivePeak("cpu", case.weights) as prefill:
                cache = work.prefill(case.model, case.cache())
            case.model(input_ids=work.continuation[:, :1], past_key_values=cache)
            last = work.continuation[:, 1:].clone()
            with LivePeak("cpu", [*case.weights, *held_tensors(cache)]) as decode:
                case.model(input_ids=last, past_key_values=cache)
        expected = predict_prefill(case.held, batch=batch, tokens=tokens, chunk=chunk)
        found = prefill.peak_bytes - case.static
        above = expected.total - case.static + ID_BYTES * batch * (tokens + 2)
        slack = SLACK_BYTES * batch * chunk
        assert found == pytest.approx(above, rel=TOLERANCE, abs=slack), (tokens, chunk)
        after = predict_decode(case.held, batch=batch, tokens=tokens + 2, new_tokens=2, chunk=chunk)
        found = decode.peak_bytes - case.static
        assert found == pytest.approx(after.total - case.static, rel=TOLERANCE), (tokens, chunk)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("fp8", "bf16"),
        ("int8", "fp32"),
        ("int4", "bf16"),
        pytest.param("fp8", "fp32", marks=pytest.mark.slow),
        pytest.param("int8", "bf16", marks=pytest.mark.slow),
        pytest.param("int4", "fp32", marks=pytest.mark.slow),
    ],
)
def test_prefill_into_a_quantized_cache(kind: str, dtype: str) -> None:
    """Chunks of fewer tokens than are quantized anew, and of more."""
    case = _Case("llama", dtype, kv_cache_named(kind))
    for batch, tokens, chunk in [*SIZES, (1, 600, 50), (1, 600, 200)]:
        work = case.work(batch, tokens, 3, chunk)
        with torch.inference_mode():
            with LivePeak("cpu", case.weights) as prefill:
                cache = work.prefill(case.model, case.cache())
            cache = work.decode(case.model, cache)
        expected = predict_prefill(case.held, batch=batch, tokens=tokens, chunk=chunk)
        found = prefill.peak_bytes - case.static
        above = expected.total - case.static + ID_BYTES * batch * (tokens + 3)
        slack = SLACK_BYTES * batch * chunk
        assert found == pytest.approx(above, rel=TOLERANCE, abs=slack), (tokens, chunk)
        size, _ = cache_bytes(
            case.config,
            case.kind,
            batch=batch,
            prompt_tokens=tokens,
            new_tokens=3,
            item=case.model.dtype.itemsize,
            prefill_chunk=chunk,
        )
        assert held_bytes(cache) == size
