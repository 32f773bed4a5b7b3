"""What qbench itself knows of model architectures: enough to read shapes without torch.

For each architecture: the modules whose weights are linear layers, norms and embeddings, as
regular expressions over module names without the base model's prefix. The tests hold every entry
against a model that transformers builds. An architecture that is not here costs one meta model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Architecture:
    """Names of an architecture's modules."""

    prefix: str
    """Name of the base model within the language model; old checkpoints leave it out."""
    linear: str
    norm: str
    embedding: str
    tied_embedding: str
    """The embedding that a tied head shares its weight with."""
    tied_by_default: bool
    """What transformers takes when config.json leaves out `tie_word_embeddings`."""
    rotary: bool
    """Whether there is one rotary embedding module, with its two fp32 buffers."""
    ignored: str = r"(?!)"
    """Whole tensor names in old checkpoints that are not loaded."""
    head: str = "lm_head"
    transposed: bool = False
    """Whether its linear weights are stored as (in, out): Conv1D."""

    @cached_property
    def roles(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        """Patterns over module names, with the role of their weights."""
        return (
            (re.compile(self.linear), "linear"),
            (re.compile(self.norm), "norm"),
            (re.compile(self.embedding), "embedding"),
        )


_ROTARY_CACHES = r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)"

_LLAMA = Architecture(
    prefix="model",
    linear=r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    norm=r"layers\.\d+\.(input|post_attention)_layernorm|norm",
    embedding=r"embed_tokens",
    tied_embedding="embed_tokens",
    tied_by_default=False,
    rotary=True,
    ignored=_ROTARY_CACHES,
)
_QWEN3 = Architecture(
    prefix="model",
    linear=_LLAMA.linear,
    norm=rf"{_LLAMA.norm}|layers\.\d+\.self_attn\.[qk]_norm",
    embedding=_LLAMA.embedding,
    tied_embedding=_LLAMA.tied_embedding,
    tied_by_default=False,
    rotary=True,
    ignored=_ROTARY_CACHES,
)
_GPT2 = Architecture(
    prefix="transformer",
    linear=r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)",
    norm=r"h\.\d+\.ln_[12]|ln_f",
    embedding=r"wte|wpe",
    tied_embedding="wte",
    tied_by_default=True,
    rotary=False,
    # Causal masks that old versions of transformers saved with the weights.
    ignored=r"h\.\d+\.attn\.(bias|masked_bias)",
    transposed=True,
)
_OPT = Architecture(
    prefix="model",
    linear=r"decoder\.(layers\.\d+\.(self_attn\.(q|k|v|out)_proj|fc[12])|project_(in|out))",
    norm=r"decoder\.(layers\.\d+\.(self_attn|final)_layer_norm|final_layer_norm)",
    embedding=r"decoder\.embed_(tokens|positions)",
    tied_embedding="decoder.embed_tokens",
    tied_by_default=True,
    rotary=False,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _QWEN3,
    "gpt2": _GPT2,
    "opt": _OPT,
}
"""By the `model_type` of config.json."""
