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

from qbench.sources.models.layer_types import (
    ARCHITECTURES_KNOWN,
    FULL,
    LATENT,
    SHARED,
    SLIDING,
    completed,
    layer_types,
    window_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

LayerKind = Literal["full", "sliding", "latent", "shared"]


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
    if architecture not in ARCHITECTURES_KNOWN:
        return None, f"what the cache of {architecture} keeps is not known here"
    if config.get("use_bidirectional_attention"):
        return None, "a model that attends both ways has no cache"
    config = completed(config)
    try:
        types = layer_types(config)
        unknown = sorted(set(types) - {FULL, SLIDING, SHARED})
        if unknown:
            return None, f"what the cache keeps of {', '.join(unknown)} is not known here"
        return tuple(_layer(config, architecture, one) for one in types), None
    except KeyError as error:
        return None, f"config.json does not state {error.args[0]}"
    except (TypeError, ValueError, IndexError, ArithmeticError) as error:
        return None, f"config.json states sizes that do not go together ({error})"


def _layer(config: Mapping[str, Any], architecture: str, layer_type: str) -> CacheLayer:
    if architecture in LATENT:
        return CacheLayer("latent", 1, int(config["kv_lora_rank"]), int(config["qk_rope_head_dim"]))
    if architecture == "gpt2":
        heads, hidden = int(config["n_head"]), int(config["n_embd"])
    else:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    shared = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or hidden // heads)
    if layer_type == SHARED:
        return CacheLayer("shared", shared, width, width)
    if layer_type == FULL:
        return CacheLayer("full", shared, width, width)
    window = window_of(config)
    if window is None:
        raise KeyError("sliding_window")
    return CacheLayer("sliding", shared, width, width, window)
