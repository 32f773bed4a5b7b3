"""Quantized KV caches: the bytes that they hold, and codes against their definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest

from qbench.core.errors import MeasurementError
from qbench.precisions.kv_cache import FLOATING, OWN, KvName, kv_caches
from qbench.precisions.kv_layers import held_bytes, make_cache
from qbench.predict.cache_bytes import cache_bytes, cache_misfit

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

SHAPES: dict[str, dict[str, Any]] = {
    "one key head": {
        "model_type": "llama",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    },
    "heads of 80": {
        "model_type": "llama",
        "hidden_size": 160,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    },
    "gpt2, heads of 48": {"model_type": "gpt2", "n_embd": 96, "n_head": 2, "n_layer": 2},
}


def marked(kinds: Iterable[str]) -> list[Any]:
    """The kinds; those of quanto are slow, since it compiles C++ when it is first used."""
    slow = pytest.mark.slow
    return [pytest.param(one, marks=slow) if one.startswith("quanto") else one for one in kinds]


def make_model(shape: dict[str, Any], dtype: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        **shape, vocab_size=32, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def filled(model: Any, kind: str | None, batch: int, prompt: int, new: int) -> Any:
    """The cache after a prompt and tokens one by one."""
    import torch

    cache = None if kind is None else make_cache(kv_caches()[kind], model)
    with torch.inference_mode():
        for tokens in (prompt, *(1,) * new):
            ids = torch.zeros(batch, tokens, dtype=torch.long)
            cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
    return cache


@pytest.mark.parametrize("kind", [None, *marked(kv_caches())])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_held_bytes_equal_the_arithmetic(kind: str | None, shape: str, dtype: str) -> None:
    model = make_model(SHAPES[shape], dtype)
    item = 4 if dtype == "float32" else 2
    # The second passes the tokens from which on new ones are quantized.
    for batch, prompt, new in ((2, 7, 3), (1, 5, 130)):
        expected, reason = cache_bytes(
            model.config.to_dict(),
            None if kind is None else kv_caches()[kind],
            batch=batch,
            prompt_tokens=prompt,
            new_tokens=new,
            item=item,
        )
        assert reason is None
        assert held_bytes(filled(model, kind, batch, prompt, new)) == expected


def e4m3_values() -> torch.Tensor:
    """All finite numbers of OCP's e4m3 (OFP8 1.0): bias 7, subnormals of 2^-9, the largest 448."""
    import torch

    values = [
        (mantissa / 8 if exponent == 0 else 1 + mantissa / 8) * 2.0 ** (max(exponent, 1) - 7)
        for exponent in range(16)
        for mantissa in range(8)
        if (exponent, mantissa) != (15, 7)
    ]
    return torch.tensor(sorted({*values, *(-value for value in values)}), dtype=torch.float64)


def test_fp8_keeps_the_nearest_e4m3_number_and_the_scale_of_the_prompt() -> None:
    import torch

    [layer] = make_cache(kv_caches()["fp8"], make_model(ONE_LAYER, "float32")).layers
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randn(1, 1, 50, 64, generator=generator)
    layer.update(prompt, 2 * prompt)
    later = 3 * torch.randn(1, 1, 1, 64, generator=generator)
    keys, values = layer.update(later, later)
    for found, first in ((keys, prompt), (values, 2 * prompt)):
        scale = float(first.abs().max()) / 448
        exact = (torch.cat([first, later], dim=2).double() / scale).clamp(-448, 448)
        distances = (exact[..., None] - e4m3_values()).abs().amin(-1)
        assert torch.allclose((found.double() / scale - exact).abs(), distances, atol=1e-3)
        assert float(found.abs().max()) <= float(first.abs().max()) * 1.0001


@pytest.mark.parametrize("kind", marked(["int8", "int4", "int2", "quanto-int4", "quanto-int2"]))
def test_integers_stay_within_a_step_of_their_own_group(kind: str) -> None:
    import torch

    cache = kv_caches()[kind]
    [layer] = make_cache(cache, make_model(ONE_LAYER, "float32")).layers
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randn(2, 1, 21, 64, generator=generator)
    prompt[:, :, 4] *= 100  # a token's own groups: no other token may suffer
    layer.update(prompt, prompt)
    new = torch.randn(2, 1, 1, 64, generator=generator)
    keys, _ = layer.update(new, new)
    assert torch.equal(keys[:, :, 21:], new)
    size = cache.group(1, (64, 64))
    assert size == {8: 64, 4: 32, 2: 16}[cache.bits]
    groups = prompt.reshape(-1, size)
    step = (groups.amax(1) - groups.amin(1)) / (2**cache.bits - 1)
    error = (keys[:, :, :21].reshape(-1, size) - groups).abs().amax(1)
    assert bool((error <= 1.05 * step).all())
    assert float(error.max()) > 0


ONE_LAYER = {**SHAPES["one key head"], "num_hidden_layers": 1}


@pytest.mark.parametrize("kind", marked(kv_caches()))
def test_a_sliding_window_is_refused_before_and_after_loading(kind: str) -> None:
    shape = {**SHAPES["one key head"], "model_type": "mistral", "sliding_window": 8}
    model = make_model(shape, "float32")
    reason = cache_misfit(model.config.to_dict(), kv_caches()[kind])
    assert reason is not None
    assert "sliding attention" in reason
    with pytest.raises(MeasurementError, match="sliding_attention"):
        make_cache(kv_caches()[kind], model)


def test_what_cannot_be_packed_is_refused() -> None:
    shape = {**SHAPES["one key head"], "head_dim": 8}
    model = make_model(shape, "float32")
    assert "kv_cache: fp8" in str(cache_misfit(model.config.to_dict(), kv_caches()["int4"]))
    assert cache_misfit(model.config.to_dict(), kv_caches()["fp8"]) is None
    with pytest.raises(MeasurementError, match="cannot be packed into 4 bits"):
        filled(model, "int4", 1, 4, 1)


def test_a_suite_can_name_every_kind_and_no_other() -> None:
    assert sorted(get_args(KvName)) == sorted((OWN, *FLOATING, *kv_caches()))
