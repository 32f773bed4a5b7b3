"""Configurations of tiny models of many architectures, for tests that need no weights of theirs."""

from __future__ import annotations

from typing import Any

_SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 10,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
}
_WINDOWED = {"sliding_window": 8}
_ASKED = {**_WINDOWED, "use_sliding_window": True, "max_window_layers": 2}
_OWN: dict[str, dict[str, Any]] = {
    "cohere2": _WINDOWED,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "exaone4": _WINDOWED,
    "gemma": {"head_dim": 12},
    "gemma2": {**_WINDOWED, "head_dim": 12},
    "gemma3_text": {**_WINDOWED, "head_dim": 12, "sliding_window_pattern": 3},
    "gemma3n_text": {
        **_WINDOWED,
        "head_dim": 8,
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 4,
        "vocab_size_per_layer_input": 40,
        "hidden_size_per_layer_input": 4,
    },
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_oss": {**_WINDOWED, "head_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": {**_WINDOWED, "head_dim": 8},
    "mistral": _WINDOWED,
    "mixtral": {**_WINDOWED, "num_local_experts": 4},
    "olmo3": _WINDOWED,
    "opt": {"num_key_value_heads": None, "ffn_dim": 16, "word_embed_proj_dim": 32},
    "phi3": _WINDOWED,
    "phimoe": {**_WINDOWED, "num_local_experts": 4},
    "qwen2": _ASKED,
    "qwen2_moe": {**_ASKED, **_EXPERTS, "shared_expert_intermediate_size": 8},
    "qwen3": {**_ASKED, "head_dim": 12},
    "qwen3_moe": {**_ASKED, **_EXPERTS, "head_dim": 12},
    "seed_oss": {"head_dim": 12},
    "smollm3": _ASKED,
    "starcoder2": _WINDOWED,
}
"""What a configuration of each architecture states besides; the others state no more."""


def tiny_config(architecture: str) -> dict[str, Any]:
    """What config.json of a tiny model of the architecture states; layers differ where they can."""
    own = _OWN.get(architecture, {})
    return {"model_type": architecture, **({} if architecture == "gpt2" else _SIZES), **own}
