"""Which layers of a model attend to all tokens, and which have a window or share their cache.

Configurations say it in several ways: `layer_types`, a pattern, `use_sliding_window`, or only by
the architecture's name. Here is what transformers makes of each, without transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FULL, SLIDING, SHARED = "full_attention", "sliding_attention", "shared"
"""The first two are transformers' names; a shared layer reads what a layer before it keeps."""

PLAIN = frozenset(
    {
        *("gemma", "gpt2", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "opt"),
        *("phi3", "phimoe", "starcoder2", "cohere", "ministral", "seed_oss"),
    }
)
"""Architectures whose layers are all alike: with the window that config.json states, if any."""
LATENT = frozenset({"deepseek_v2", "deepseek_v3"})
"""Those that keep latents of keys and values; they have no windows."""
_ON_REQUEST = frozenset({"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"})
"""Those that have their window only where `use_sliding_window` says so."""
_PATTERNS = {
    "gemma2": 2,
    "gpt_oss": 2,
    "olmo3": 4,
    "cohere2": 4,
    "exaone4": 4,
    "gemma3n_text": 5,
    "gemma3_text": 6,
}
"""Those in which every so many-th layer sees all and the others have a window."""
ARCHITECTURES_KNOWN = frozenset({*PLAIN, *LATENT, *_ON_REQUEST, *_PATTERNS})
"""By the `model_type` of config.json."""
TAKEN: dict[str, dict[str, int]] = {
    "cohere2": {"sliding_window": 4096},
    "exaone4": {"sliding_window": 4096, "num_key_value_heads": 32},
    "gemma": {"head_dim": 256, "num_key_value_heads": 16},
    "gemma2": {"sliding_window": 4096, "head_dim": 256, "num_key_value_heads": 4},
    "gemma3_text": {
        "sliding_window": 4096,
        "head_dim": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "gemma3n_text": {
        "sliding_window": 512,
        "head_dim": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 15,
    },
    "gpt_oss": {"sliding_window": 128, "head_dim": 64, "num_key_value_heads": 8},
    "ministral": {"sliding_window": 4096, "num_key_value_heads": 8},
    "mistral": {"sliding_window": 4096, "num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8},
    "olmo3": {"sliding_window": 4096},
    "phimoe": {"num_key_value_heads": 8},
    "qwen2": {"sliding_window": 4096, "num_key_value_heads": 32},
    "qwen2_moe": {"sliding_window": 4096, "num_key_value_heads": 16},
    "qwen3": {"sliding_window": 4096, "head_dim": 128, "num_key_value_heads": 32},
    "qwen3_moe": {"sliding_window": 4096, "num_key_value_heads": 4},
    "seed_oss": {"head_dim": 128, "num_key_value_heads": 8},
    "smollm3": {"num_key_value_heads": 4},
    "starcoder2": {"num_key_value_heads": 2},
}
"""What transformers takes where config.json leaves it out, by architecture."""
_MOST_WINDOW_LAYERS = 28
"""What transformers takes for Qwen's `max_window_layers`."""


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what transformers takes where it says nothing."""
    return {**TAKEN.get(str(config.get("model_type")), {}), **config}


def layer_types(config: Mapping[str, Any]) -> list[str]:
    """The type of each layer of a known architecture by transformers' name, or `shared`.

    Raises `KeyError` with the name of a size that the configuration does not state, `ValueError`
    where it states sizes that do not go together.
    """
    config = completed(config)
    architecture = str(config["model_type"])
    count = int(config["n_layer" if architecture == "gpt2" else "num_hidden_layers"])
    types = config.get("layer_types") or _types_by_default(config, architecture, count)
    if len(types) != count:
        raise ValueError(f"{count} layers and {len(types)} layer_types")
    shared = int(config.get("num_kv_shared_layers") or 0)
    return [*types[: count - shared], *[SHARED] * shared]


def window_of(config: Mapping[str, Any]) -> int | None:
    """The width of the layers' windows, in tokens; None where no layer has one.

    Raises `ValueError` for a width that is none.
    """
    config = completed(config)
    asked = config.get("model_type") not in _ON_REQUEST or config.get("use_sliding_window", False)
    window = config.get("sliding_window") if asked else None
    if window is not None and int(window) < 1:
        raise ValueError(f"sliding_window: {window}")
    return None if window is None else int(window)


def _types_by_default(config: Mapping[str, Any], architecture: str, count: int) -> list[str]:
    """As transformers derives them where config.json has no `layer_types`."""
    if architecture in LATENT or window_of(config) is None:
        return [FULL] * count
    if architecture in _PATTERNS:
        every = int(config.get("sliding_window_pattern") or _PATTERNS[architecture])
        return [SLIDING if (index + 1) % every else FULL for index in range(count)]
    most = int(config.get("max_window_layers", _MOST_WINDOW_LAYERS))
    if architecture in {"qwen2", "qwen3"}:
        return [SLIDING if index >= most else FULL for index in range(count)]
    if architecture == "qwen2_moe":
        return [SLIDING if (index + 1) % 2 and index < most else FULL for index in range(count)]
    if architecture == "smollm3":
        every = int(config.get("no_rope_layer_interval", 4))
        rotary = config.get("no_rope_layers") or [(i + 1) % every for i in range(count)]
        return [FULL if turned else SLIDING for turned in rotary]
    return [SLIDING] * count
