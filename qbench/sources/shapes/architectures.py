"""What qbench itself knows of model architectures: enough to read shapes without torch.

For each architecture: the modules whose weights are linear layers, norms and embeddings, as
regular expressions over module names without the base model's prefix. The tests hold every entry
against a model that transformers builds. An architecture that is not here costs one meta model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal


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
    rotary: Literal["one", "by layer type"] | None
    """Whether there is a rotary embedding module, with its two fp32 buffers; or two of each kind of
    layer that there is."""
    ignored: str = r"(?!)"
    """Whole tensor names in old checkpoints that are not loaded."""
    head: str = "lm_head"
    transposed: bool = False
    """Whether its linear weights are stored as (in, out): Conv1D."""
    other: str = r"(?!)"
    """Whole names of tensors that belong to no module of these: routers, and a layer's experts,
    which transformers stacks into one tensor."""
    wide_buffer: str = r"(?!)"
    """Whole names of buffers in the checkpoint, which stay in fp32 whatever is asked for."""
    wide_norms_in_fp16: bool = False
    """Whether its norms are loaded in fp32 where fp16 is asked for."""
    scaled_embedding: bool = False
    """Whether the embedding has its scale as a buffer of one element."""

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
    rotary="one",
    ignored=_ROTARY_CACHES,
)
_QWEN3 = replace(_LLAMA, norm=rf"{_LLAMA.norm}|layers\.\d+\.self_attn\.[qk]_norm")
_OLMO2 = replace(
    _LLAMA,
    norm=r"layers\.\d+\.(post_(attention|feedforward)_layernorm|self_attn\.[qk]_norm)|norm",
)
_PHI3 = replace(_LLAMA, linear=r"layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)")
_GEMMA2 = replace(
    _LLAMA,
    norm=r"layers\.\d+\.(input|post_attention|(pre|post)_feedforward)_layernorm|norm",
    tied_by_default=True,
    scaled_embedding=True,
)
_GEMMA3 = replace(
    _GEMMA2,
    norm=rf"{_GEMMA2.norm}|layers\.\d+\.self_attn\.[qk]_norm",
    rotary="by layer type",
)
_MIXTRAL = replace(
    _LLAMA,
    linear=r"layers\.\d+\.self_attn\.[qkvo]_proj",
    other=r"layers\.\d+\.mlp\.(gate\.weight|experts\.(gate_up|down)_proj)",
)
_QWEN3_MOE = replace(_QWEN3, other=_MIXTRAL.other)
_GPT_OSS = replace(
    _MIXTRAL,
    wide_norms_in_fp16=True,
    other=r"layers\.\d+\.(self_attn\.sinks|mlp\.(router\.(weight|bias)"
    r"|experts\.(gate_up|down)_proj(_bias)?))",
)
_DEEPSEEK = replace(
    _LLAMA,
    linear=r"layers\.\d+\.(self_attn\.(q|q_a|q_b|kv_b|o)_proj|self_attn\.kv_a_proj_with_mqa"
    r"|mlp\.(shared_experts\.)?(gate|up|down)_proj)",
    norm=rf"{_LLAMA.norm}|layers\.\d+\.self_attn\.(q|kv)_a_layernorm",
    other=_MIXTRAL.other,
    wide_buffer=r"layers\.\d+\.mlp\.gate\.e_score_correction_bias",
)
_GPT2 = Architecture(
    prefix="transformer",
    linear=r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)",
    norm=r"h\.\d+\.ln_[12]|ln_f",
    embedding=r"wte|wpe",
    tied_embedding="wte",
    tied_by_default=True,
    rotary=None,
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
    rotary=None,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _QWEN3,
    "smollm3": replace(_LLAMA, tied_by_default=True),
    "olmo2": _OLMO2,
    "phi3": _PHI3,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "mixtral": _MIXTRAL,
    "qwen3_moe": _QWEN3_MOE,
    "gpt_oss": _GPT_OSS,
    "deepseek_v3": _DEEPSEEK,
    "gpt2": _GPT2,
    "opt": _OPT,
}
"""By the `model_type` of config.json."""
