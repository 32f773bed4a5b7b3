"""What the cache keeps by arithmetic equals what transformers' cache holds after a forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.predict.kv_cache import cache_elements
from qbench.sources.models.layer_types import ARCHITECTURES_KNOWN, TAKEN
from tests.tiny_configs import tiny_config

if TYPE_CHECKING:
    import torch

_LEFT_OUT = (
    "head_dim",
    "num_key_value_heads",
    "num_kv_shared_layers",
    "sliding_window",
    "use_sliding_window",
)


def _held(config: dict[str, Any], tokens: int) -> list[tuple[int, int]]:
    """Elements of keys and values that each layer of the cache holds, as the model fills it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    made = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()
    cache = DynamicCache(config=made)
    ids = torch.randint(1, 40, (1, tokens), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for part in (ids[:, :3], ids[:, 3:-1], ids[:, -1:]):
            if part.numel():
                model(input_ids=part, past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == tokens
    return [
        (_elements(getattr(layer, "keys", None)), _elements(getattr(layer, "values", None)))
        for layer in cache.layers
    ]


def _elements(held: torch.Tensor | None) -> int:
    return 0 if held is None else held.numel()


@pytest.mark.parametrize("tokens", [4, 13])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES_KNOWN))
def test_as_the_cache_is_filled(architecture: str, tokens: int) -> None:
    config = tiny_config(architecture)
    found, reason = cache_elements(config, tokens)
    assert reason is None
    assert found is not None
    held = _held(config, tokens)
    assert [(layer.keys, layer.values) for layer in found.layers] == held
    assert found.total == sum(keys + values for keys, values in held)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES_KNOWN))
def test_what_a_configuration_leaves_out(architecture: str) -> None:
    from transformers import AutoConfig

    if architecture.startswith("deepseek"):  # heads do not count
        return
    default = AutoConfig.for_model(architecture)
    taken = TAKEN.get(architecture, {})
    for key in _LEFT_OUT:
        value = getattr(type(default), key, None)
        assert taken.get(key) == (value if isinstance(value, int) and value else None), key


def test_of_the_text_in_a_model_of_images() -> None:
    text = tiny_config("gemma3_text")
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    assert cache_elements(outer, 13) == cache_elements(text, 13)


def test_what_is_not_known_is_said() -> None:
    def reason(**config: Any) -> str:
        found, why = cache_elements(config, 5)
        assert found is None
        return str(why)

    llama = tiny_config("llama")
    assert reason(model_type="mamba") == "what the cache of mamba keeps is not known here"
    assert "linear_attention" in reason(**{**llama, "layer_types": ["linear_attention"] * 6})
    assert "6 layers and 2 layer_types" in reason(
        **{**llama, "layer_types": ["full_attention"] * 2}
    )
    del llama["hidden_size"]
    assert reason(**llama) == "config.json does not state hidden_size"


def test_mistral_7b_and_deepseek_v3_by_hand() -> None:
    """128 KiB a token in 16 bits, in 32 layers; and 70,272 bytes, 576 elements in 61 layers."""
    mistral = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
    }
    found, _ = cache_elements(mistral, 1000)
    assert found is not None
    assert 2 * found.total == 1000 * 128 * 1024
    deepseek = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 61,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
    }
    found, _ = cache_elements(deepseek, 1)
    assert found is not None
    assert 2 * found.total == 70_272
