"""Shapes of a model's tensors from its configuration alone: no weights, no torch, milliseconds.

The tensors that a checkpoint of the architecture would hold are listed by its arithmetic, and then
taken for the header of one. The tests compare each with the model that transformers builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.sources.models.headers import StoredTensor
from qbench.sources.shapes.shapes import shape_from_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import ModelShape

    Sizes = dict[str, tuple[int, ...]]

_ROTARY_TYPES = ("llama", "mistral", "qwen2")


def shape_from_config(config: Mapping[str, Any], place: str) -> ModelShape | None:
    """All tensors of the model that the configuration describes; None where they are not known.

    Known are llama, mistral, qwen2 and gpt2 with every size stated. `place` names the
    configuration in messages.
    """
    architecture = config.get("model_type")
    try:
        if architecture in _ROTARY_TYPES:
            sizes = _rotary(config)
        elif architecture == "gpt2" and not config.get("add_cross_attention"):
            sizes = _gpt2(config)
        else:
            return None
    except (KeyError, TypeError, ZeroDivisionError):
        return None  # transformers has a default for what is not stated, and is asked
    tensors = {name: StoredTensor("F32", shape, 0, 0) for name, shape in sizes.items()}
    shape = shape_from_headers(tensors, dict(config), place)
    return None if shape is None else shape.model_copy(update={"origin": "config"})


def _rotary(config: Mapping[str, Any]) -> Sizes:
    """Llama and its kin: query, key, value and output; gate, up and down; two norms a layer."""
    hidden, inner, vocabulary = (
        config[name] for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    attended = heads * width
    shared = (config.get("num_key_value_heads") or heads) * width
    qwen, llama = config["model_type"] == "qwen2", config["model_type"] == "llama"
    attention_bias = llama and bool(config.get("attention_bias"))
    mlp_bias = llama and bool(config.get("mlp_bias"))
    layers = {
        "self_attn.q_proj": (attended, hidden, qwen or attention_bias),
        "self_attn.k_proj": (shared, hidden, qwen or attention_bias),
        "self_attn.v_proj": (shared, hidden, qwen or attention_bias),
        "self_attn.o_proj": (hidden, attended, attention_bias),
        "mlp.gate_proj": (inner, hidden, mlp_bias),
        "mlp.up_proj": (inner, hidden, mlp_bias),
        "mlp.down_proj": (hidden, inner, mlp_bias),
    }
    sizes: Sizes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.get("tie_word_embeddings", False):
        sizes["lm_head.weight"] = (vocabulary, hidden)
    for index in range(config["num_hidden_layers"]):
        block = f"model.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            sizes[f"{block}.{norm}.weight"] = (hidden,)
        for name, (outputs, inputs, bias) in layers.items():
            sizes[f"{block}.{name}.weight"] = (outputs, inputs)
            if bias:
                sizes[f"{block}.{name}.bias"] = (outputs,)
    return sizes


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
