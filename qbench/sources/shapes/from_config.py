"""Shapes of a model's tensors from its configuration alone: no weights, no torch, milliseconds.

The tensors that a checkpoint of the architecture would hold are listed by its arithmetic, and then
taken for the header of one. The tests compare each with the model that transformers builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.sources.models.experts import experts_of
from qbench.sources.models.headers import StoredTensor
from qbench.sources.models.layer_types import completed
from qbench.sources.shapes.architectures import ARCHITECTURES
from qbench.sources.shapes.shapes import shape_from_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qbench.core.spec import ModelShape

    Sizes = dict[str, tuple[int, ...]]


def shape_from_config(config: Mapping[str, Any], place: str) -> ModelShape | None:
    """All tensors of the model that the configuration describes; None where they are not known.

    Known are the architectures of `ARCHITECTURES`, but for opt, with every size stated that
    transformers has no default for. `place` names the configuration in messages.
    """
    architecture = config.get("model_type")
    try:
        if architecture == "gpt2" and not config.get("add_cross_attention"):
            sizes = _gpt2(config)
        elif architecture in _BLOCKS:
            sizes = _rotary(completed(config), _BLOCKS[architecture])
        else:
            return None
    except (KeyError, TypeError, ZeroDivisionError):
        return None  # transformers has a default for what is not stated, and is asked
    if not all(type(size) is int and size > 0 for one in sizes.values() for size in one):
        return None  # no sizes: transformers says what is wrong with them
    tensors = {name: StoredTensor("F32", shape, 0, 0) for name, shape in sizes.items()}
    shape = shape_from_headers(tensors, dict(config), place)
    return None if shape is None else shape.model_copy(update={"origin": "config"})


Layers = dict[str, tuple[int, int, bool]]
"""Outputs, inputs, and whether there is a bias, by name within a block."""


@dataclass(frozen=True)
class _Block:
    """What one block of an architecture is made of."""

    attention: Callable[[Mapping[str, Any]], tuple[Layers, Sizes]]
    """Its linear layers; and its tensors that belong to none."""
    second_half: Callable[[Mapping[str, Any], int], tuple[Layers, Sizes]]
    """The same of the feed-forward layers, of the block of that number."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")


def _rotary(config: Mapping[str, Any], block: _Block) -> Sizes:
    """Llama and its kin: an embedding, blocks of two halves, a norm, and a head."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    sizes: Sizes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    tied = ARCHITECTURES[config["model_type"]].tied_by_default
    if not config.get("tie_word_embeddings", tied):
        sizes["lm_head.weight"] = (vocabulary, hidden)
    for index in range(config["num_hidden_layers"]):
        name = f"model.layers.{index}"
        sizes |= {f"{name}.{norm}.weight": (hidden,) for norm in block.norms}
        for layers, others in (block.attention(config), block.second_half(config, index)):
            sizes |= {f"{name}.{own}": shape for own, shape in others.items()}
            for own, (outputs, inputs, bias) in layers.items():
                sizes[f"{name}.{own}.weight"] = (outputs, inputs)
                if bias:
                    sizes[f"{name}.{own}.bias"] = (outputs,)
    return sizes


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, and their width."""
    heads: int = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return heads, config.get("num_key_value_heads") or heads, width


def _attention(config: Mapping[str, Any]) -> tuple[Layers, Sizes]:
    """Query, key, value and output; of some a norm of each head of query and key, or of all."""
    kind, hidden = config["model_type"], config["hidden_size"]
    heads, shared, width = _heads(config)
    bias = bool(config.get("attention_bias")) and kind not in {"mistral", "mixtral", "qwen2"}
    bias = bias or (kind == "gpt_oss" and config.get("attention_bias", True))
    layers: Layers = {
        "self_attn.q_proj": (heads * width, hidden, bias or kind == "qwen2"),
        "self_attn.k_proj": (shared * width, hidden, bias or kind == "qwen2"),
        "self_attn.v_proj": (shared * width, hidden, bias or kind == "qwen2"),
        "self_attn.o_proj": (hidden, heads * width, bias),
    }
    others: Sizes = {}
    if kind in {"qwen3", "qwen3_moe", "gemma3_text"}:
        others = {f"self_attn.{part}_norm.weight": (width,) for part in "qk"}
    elif kind == "olmo2":
        others = {
            "self_attn.q_norm.weight": (heads * width,),
            "self_attn.k_norm.weight": (shared * width,),
        }
    elif kind == "gpt_oss":
        others = {"self_attn.sinks": (heads,)}
    return layers, others


def _joined_attention(config: Mapping[str, Any]) -> tuple[Layers, Sizes]:
    """Phi-3: query, key and value in one layer."""
    hidden = config["hidden_size"]
    heads, shared, width = _heads(config)
    return {
        "self_attn.qkv_proj": ((heads + 2 * shared) * width, hidden, False),
        "self_attn.o_proj": (hidden, heads * width, False),
    }, {}


def _latent_attention(config: Mapping[str, Any]) -> tuple[Layers, Sizes]:
    """DeepSeek: keys and values by way of a latent and one rotary key; queries by one too."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    latent, rotary = config["kv_lora_rank"], config["qk_rope_head_dim"]
    plain, value, query = config["qk_nope_head_dim"], config["v_head_dim"], config["q_lora_rank"]
    bias = bool(config.get("attention_bias"))
    layers: Layers = {
        "self_attn.kv_a_proj_with_mqa": (latent + rotary, hidden, bias),
        "self_attn.kv_b_proj": (heads * (plain + value), latent, False),
        "self_attn.o_proj": (hidden, heads * value, bias),
    }
    others: Sizes = {"self_attn.kv_a_layernorm.weight": (latent,)}
    width = heads * (plain + rotary)
    if query is None:
        layers["self_attn.q_proj"] = (width, hidden, False)
    else:
        layers["self_attn.q_a_proj"] = (query, hidden, bias)
        layers["self_attn.q_b_proj"] = (width, query, False)
        others["self_attn.q_a_layernorm.weight"] = (query,)
    return layers, others


def _gated(hidden: int, inner: int, *, bias: bool = False, name: str = "mlp") -> Layers:
    return {
        f"{name}.gate_proj": (inner, hidden, bias),
        f"{name}.up_proj": (inner, hidden, bias),
        f"{name}.down_proj": (hidden, inner, bias),
    }


def _mlp(config: Mapping[str, Any], _: int) -> tuple[Layers, Sizes]:
    bias = config["model_type"] in {"llama", "smollm3"} and bool(config.get("mlp_bias"))
    return _gated(config["hidden_size"], config["intermediate_size"], bias=bias), {}


def _joined_mlp(config: Mapping[str, Any], _: int) -> tuple[Layers, Sizes]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return {
        "mlp.gate_up_proj": (2 * inner, hidden, False),
        "mlp.down_proj": (hidden, inner, False),
    }, {}


def _count(config: Mapping[str, Any]) -> int:
    count, _ = experts_of(config)
    if count is None:
        raise KeyError("num_experts")
    return count


def _experts(hidden: int, inner: int, count: int, router: str = "gate") -> Sizes:
    """A router, and all experts of a layer stacked, as transformers 5 loads them."""
    return {
        f"mlp.{router}.weight": (count, hidden),
        "mlp.experts.gate_up_proj": (count, 2 * inner, hidden),
        "mlp.experts.down_proj": (count, hidden, inner),
    }


def _mixtral(config: Mapping[str, Any], _: int) -> tuple[Layers, Sizes]:
    sizes = config["hidden_size"], config["intermediate_size"], _count(config)
    return {}, _experts(*sizes)


def _qwen3_moe(config: Mapping[str, Any], index: int) -> tuple[Layers, Sizes]:
    dense = index in (config.get("mlp_only_layers") or ())
    if dense or (index + 1) % config.get("decoder_sparse_step", 1):
        return _mlp(config, index)
    sizes = config["hidden_size"], config["moe_intermediate_size"], _count(config)
    return {}, _experts(*sizes)


def _gpt_oss(config: Mapping[str, Any], _: int) -> tuple[Layers, Sizes]:
    """Router and experts have biases; the experts' matrices are (in, out)."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    count = _count(config)
    return {}, {
        "mlp.router.weight": (count, hidden),
        "mlp.router.bias": (count,),
        "mlp.experts.gate_up_proj": (count, hidden, 2 * inner),
        "mlp.experts.gate_up_proj_bias": (count, 2 * inner),
        "mlp.experts.down_proj": (count, inner, hidden),
        "mlp.experts.down_proj_bias": (count, hidden),
    }


def _deepseek(config: Mapping[str, Any], index: int) -> tuple[Layers, Sizes]:
    """The first layers are dense; the others have experts that all tokens share besides."""
    if index < config["first_k_dense_replace"]:
        return _mlp(config, index)
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    count = _count(config)
    shared = inner * config["n_shared_experts"]
    return _gated(hidden, shared, name="mlp.shared_experts"), {
        **_experts(hidden, inner, count),
        "mlp.gate.e_score_correction_bias": (count,),
    }


_PLAIN = _Block(_attention, _mlp)
_GEMMA = _Block(
    _attention,
    _mlp,
    (*_PLAIN.norms, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
_BLOCKS = {
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "smollm3": _PLAIN,
    "olmo2": _Block(_attention, _mlp, ("post_attention_layernorm", "post_feedforward_layernorm")),
    "phi3": _Block(_joined_attention, _joined_mlp),
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "mixtral": _Block(_attention, _mixtral),
    "qwen3_moe": _Block(_attention, _qwen3_moe),
    "gpt_oss": _Block(_attention, _gpt_oss),
    "deepseek_v3": _Block(_latent_attention, _deepseek),
}


def _gpt2(config: Mapping[str, Any]) -> Sizes:
    """GPT-2: matrices stored as (in, out), each with a bias; learned positions."""
    hidden, vocabulary = config["n_embd"], config["vocab_size"]
    inner = config.get("n_inner") or 4 * hidden
    layers = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }
    sizes: Sizes = {
        "transformer.wte.weight": (vocabulary, hidden),
        "transformer.wpe.weight": (config["n_positions"], hidden),
        "transformer.ln_f.weight": (hidden,),
        "transformer.ln_f.bias": (hidden,),
    }
    if not config.get("tie_word_embeddings", True):
        sizes["lm_head.weight"] = (vocabulary, hidden)
    for index in range(config["n_layer"]):
        block = f"transformer.h.{index}"
        for norm in ("ln_1", "ln_2"):
            sizes[f"{block}.{norm}.weight"] = (hidden,)
            sizes[f"{block}.{norm}.bias"] = (hidden,)
        for name, shape in layers.items():
            sizes[f"{block}.{name}.weight"] = shape
            sizes[f"{block}.{name}.bias"] = shape[1:]
    return sizes
