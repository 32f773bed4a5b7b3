"""What the cache keeps of a sequence: keys and values, layer by layer, from config.json alone.

    full     every token
    sliding  of a window of w tokens the last w - 1: the next token is the w-th
    latent   every token, as one latent and one rotary key for all heads (MLA)
    shared   nothing: the layer reads what a layer before it keeps

So transformers 5 fills its `DynamicCache`, which the tests compare with this. Engines keep the same
up to the blocks that they allocate. The memory that a sliding layer holds is that of the last join:
all tokens of a prompt, and after a decoded token the window's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

LayerKind = Literal["full", "sliding", "latent", "shared"]

_KINDS: dict[str, LayerKind] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
}
"""Of transformers' `layer_types`."""
_PLAIN = frozenset(
    {
        *("gemma", "gpt2", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "opt"),
        *("phi3", "phimoe", "starcoder2", "cohere", "ministral", "seed_oss"),
    }
)
"""Architectures whose layers are all alike: with the window that config.json states, if any."""
_ON_REQUEST = frozenset({"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"})
"""Those that have their window only where `use_sliding_window` says so."""
_PATTERNS = {
    "gemma2": 2, "gpt_oss": 2, "olmo3": 4, "cohere2": 4, "exaone4": 4, "gemma3n_text": 5,
    "gemma3_text": 6,
}  # fmt: skip
"""Those in which every so many-th layer sees all and the others have a window."""
_LATENT = frozenset({"deepseek_v2", "deepseek_v3"})
KNOWN_CACHES = frozenset({*_PLAIN, *_ON_REQUEST, *_PATTERNS, *_LATENT})
"""By the `model_type` of config.json, or of its `text_config`."""
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


@dataclass(frozen=True)
class LayerCache:
    """What one layer keeps of a sequence."""

    kind: LayerKind
    keys: int
    """Elements; of a latent layer those of the latents."""
    values: int
    """Elements; of a latent layer those of the rotary keys."""

    @property
    def total(self) -> int:
        """Elements of both."""
        return self.keys + self.values


@dataclass(frozen=True)
class CacheElements:
    """What the cache keeps of one sequence; times a type's bytes it is the size of the cache."""

    layers: tuple[LayerCache, ...]
    """In the model's order."""

    @property
    def total(self) -> int:
        """Elements of all layers."""
        return sum(layer.total for layer in self.layers)


@dataclass(frozen=True)
class CacheLayer:
    """How one layer caches."""

    kind: LayerKind
    heads: int
    key_width: int
    value_width: int
    window: int | None = None

    def of(self, tokens: int) -> LayerCache:
        """What is kept of a sequence of so many tokens."""
        kept = tokens if self.window is None else min(tokens, self.window - 1)
        rows = 0 if self.kind == "shared" else kept * self.heads
        return LayerCache(self.kind, rows * self.key_width, rows * self.value_width)


def cache_elements(
    config: Mapping[str, Any], tokens: int
) -> tuple[CacheElements | None, str | None]:
    """What the cache keeps of one sequence of so many tokens; None and the reason if not known.

    `config` is what config.json states, or `config.to_dict()` of transformers.
    """
    layers, reason = cache_layers(config)
    if layers is None:
        return None, reason
    return CacheElements(tuple(layer.of(tokens) for layer in layers)), None


def cache_layers(
    config: Mapping[str, Any],
) -> tuple[tuple[CacheLayer, ...] | None, str | None]:
    """How each layer caches, in the model's order; None and the reason where it is not known."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    architecture = str(config.get("model_type"))
    if architecture not in KNOWN_CACHES:
        return None, f"what the cache of {architecture} keeps is not known here"
    if config.get("use_bidirectional_attention"):
        return None, "a model that attends both ways has no cache"
    config = {**TAKEN.get(architecture, {}), **config}
    try:
        kinds = _kinds(config, architecture)
        unknown = sorted({kind for kind in kinds if kind not in (*_KINDS, "shared")})
        if unknown:
            return None, f"what the cache keeps of {', '.join(unknown)} is not known here"
        return tuple(_layer(config, architecture, kind) for kind in kinds), None
    except KeyError as error:
        return None, f"config.json does not state {error.args[0]}"
    except (TypeError, ValueError, ArithmeticError) as error:
        return None, f"config.json states sizes that do not go together ({error})"


def _kinds(config: Mapping[str, Any], architecture: str) -> list[str]:
    """The kind of each layer by transformers' name, or `shared`."""
    count = int(config["n_layer" if architecture == "gpt2" else "num_hidden_layers"])
    kinds = config.get("layer_types") or _kinds_by_default(config, architecture, count)
    if len(kinds) != count:
        raise ValueError(f"{count} layers and {len(kinds)} layer_types")
    shared = int(config.get("num_kv_shared_layers") or 0)
    return [*kinds[: count - shared], *["shared"] * shared]


def _kinds_by_default(config: Mapping[str, Any], architecture: str, count: int) -> list[str]:
    """As transformers derives them where config.json has no `layer_types`."""
    full, sliding = "full_attention", "sliding_attention"
    if architecture in _LATENT or _window(config, architecture) is None:
        return [full] * count
    if architecture in _PATTERNS:
        every = int(config.get("sliding_window_pattern") or _PATTERNS[architecture])
        return [sliding if (index + 1) % every else full for index in range(count)]
    most = int(config.get("max_window_layers", _MOST_WINDOW_LAYERS))
    if architecture in {"qwen2", "qwen3"}:
        return [sliding if index >= most else full for index in range(count)]
    if architecture == "qwen2_moe":
        return [sliding if (index + 1) % 2 and index < most else full for index in range(count)]
    if architecture == "smollm3":
        every = int(config.get("no_rope_layer_interval", 4))
        rotary = config.get("no_rope_layers") or [(i + 1) % every for i in range(count)]
        return [full if turned else sliding for turned in rotary]
    return [sliding] * count


def _window(config: Mapping[str, Any], architecture: str) -> int | None:
    """The width of the layers' windows, in tokens; None where no layer has one."""
    if architecture in _ON_REQUEST and not config.get("use_sliding_window", False):
        return None
    window = config.get("sliding_window")
    return None if window is None else int(window)


def _layer(config: Mapping[str, Any], architecture: str, kind: str) -> CacheLayer:
    if architecture in _LATENT:
        return CacheLayer("latent", 1, int(config["kv_lora_rank"]), int(config["qk_rope_head_dim"]))
    if architecture == "gpt2":
        heads, hidden = int(config["n_head"]), int(config["n_embd"])
    else:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    shared = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or hidden // heads)
    if kind == "shared":
        return CacheLayer("shared", shared, width, width)
    if _KINDS[kind] == "full":
        return CacheLayer("full", shared, width, width)
    window = _window(config, architecture)
    if window is None:
        raise KeyError("sliding_window")
    return CacheLayer("sliding", shared, width, width, window)
