"""The sizes of a decoder, as a configuration of transformers states them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.predict.shapes import (
    MODEL_TYPES,
    PLAIN,
    DecoderShape,
    Experts,
    LayerSort,
)
from qbench.sources.models.experts import experts_of
from qbench.sources.models.layer_types import SLIDING, completed, layer_types, window_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss")
_TIED = ("gemma2", "gemma3_text", "smollm3")
"""Those whose head is tied to the embedding where config.json does not say it."""
_ACTIVATIONS = ("silu", "swish", "gelu_pytorch_tanh")


def decoder_shape(config: Mapping[str, Any]) -> tuple[DecoderShape | None, str | None]:
    """The sizes in a transformers configuration (`config.json`, or `config.to_dict()`).

    None and the reason for an architecture whose operations are not known here.
    """
    model_type = str(config.get("model_type"))
    if model_type not in MODEL_TYPES:
        return None, f"the activations of {model_type} are not known here"
    try:
        shape, reason = _stated(config, model_type)
        if shape is not None:
            _check(shape)
    except KeyError as error:
        return None, f"config.json does not state {error.args[0]}"
    except (TypeError, ValueError, IndexError, ArithmeticError) as error:
        return None, f"config.json states sizes that do not go together ({error})"
    return shape, reason


def _check(shape: DecoderShape) -> None:
    """Raises `ValueError` for a size below one."""
    sizes = {
        name: getattr(shape, name)
        for name in ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim")
    }
    if shape.experts is not None:
        sizes["experts"] = shape.experts.intermediate
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: {size}")


def _stated(config: Mapping[str, Any], model_type: str) -> tuple[DecoderShape | None, str | None]:
    if model_type == "gpt2":
        return _gpt2(config)
    if model_type == "opt":
        return _opt(config)
    return _gated(completed(config), model_type)


def _gated(config: Mapping[str, Any], model_type: str) -> tuple[DecoderShape | None, str | None]:
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    if activation not in _ACTIVATIONS:
        return None, f"the activation {activation} is not known, only {', '.join(_ACTIVATIONS)}"
    rope = config.get("rope_parameters")
    of_rope = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    partial = config.get("partial_rotary_factor", of_rope)
    if partial not in (None, 1, 1.0):
        return None, "the activations of a partial rotary embedding are not known"
    heads = int(config["num_attention_heads"])
    biased = config.get("attention_bias", model_type == "gpt_oss")
    bias = bool(biased) and model_type not in {
        "mistral",
        "mixtral",
        "phi3",
    }
    return DecoderShape(
        model_type=model_type,
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
        vocabulary=int(config["vocab_size"]),
        positions=0,
        tied=bool(config.get("tie_word_embeddings", model_type in _TIED)),
        attention_bias=bias or model_type == "qwen2",
        output_bias=bias and model_type != "qwen2",
        mlp_bias=bool(config.get("mlp_bias", False)) and model_type in {"llama", "smollm3"},
        attention_dropout=float(config.get("attention_dropout") or 0) > 0,
        capped_scores=_caps(config, model_type, "attn_logit_softcapping"),
        capped_logits=_caps(config, model_type, "final_logit_softcapping"),
        experts=_experts(config, model_type),
        sorts=_sorts(config, model_type),
    ), None


def _caps(config: Mapping[str, Any], model_type: str, key: str) -> bool:
    """Whether it states a cap, or leaves it out where transformers has one."""
    return config.get(key, model_type == "gemma2" or None) is not None and "gemma" in model_type


def _experts(config: Mapping[str, Any], model_type: str) -> Experts | None:
    if model_type not in _MIXTURES:
        return None
    count, chosen = experts_of(config)
    if count is None or chosen is None:
        raise KeyError("num_experts" if count is None else "num_experts_per_tok")
    inner = config["moe_intermediate_size" if model_type == "qwen3_moe" else "intermediate_size"]
    return Experts(count, chosen, int(inner), biased=model_type == "gpt_oss")


def _sorts(config: Mapping[str, Any], model_type: str) -> tuple[LayerSort, ...]:
    """What each layer is; nothing where all are plain."""
    window, types = window_of(config), layer_types(config)
    dense = set(config.get("mlp_only_layers") or ())
    step = int(config.get("decoder_sparse_step") or 1)
    every = int(config.get("no_rope_layer_interval", 4))
    unturned = model_type == "smollm3"
    turned = config.get("no_rope_layers") or [(layer + 1) % every for layer in range(len(types))]
    sorts = tuple(
        LayerSort(
            window=window if layer_type == SLIDING else None,
            rotary=not unturned or bool(turned[layer]),
            experts=model_type in _MIXTURES and layer not in dense and (layer + 1) % step == 0,
        )
        for layer, layer_type in enumerate(types)
    )
    return () if set(sorts) == {PLAIN} else sorts


def _gpt2(config: Mapping[str, Any]) -> tuple[DecoderShape | None, str | None]:
    activation = config.get("activation_function", "gelu_new")
    if activation != "gelu_new":
        return None, f"the activation {activation} of a gpt2 is not known, only gelu_new"
    hidden, heads = int(config["n_embd"]), int(config["n_head"])
    dropouts = {float(config.get(name, 0.1)) > 0 for name in ("resid_pdrop", "embd_pdrop")}
    if len(dropouts) > 1:
        return None, "a gpt2 that drops only one of embedding and residual is not known"
    return DecoderShape(
        model_type="gpt2",
        hidden=hidden,
        intermediate=int(config.get("n_inner") or 4 * hidden),
        layers=int(config["n_layer"]),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary=int(config["vocab_size"]),
        positions=int(config.get("n_positions", 1024)),
        tied=bool(config.get("tie_word_embeddings", True)),
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        residual_dropout=dropouts.pop(),
        attention_dropout=float(config.get("attn_pdrop", 0.1)) > 0,
    ), None


def _opt(config: Mapping[str, Any]) -> tuple[DecoderShape | None, str | None]:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    activation = config.get("activation_function", "relu")
    if activation != "relu":
        return None, f"the activation {activation} of an opt is not known, only relu"
    if int(config.get("word_embed_proj_dim") or hidden) != hidden:
        return None, "an opt whose embeddings are projected is not known"
    if not config.get("do_layer_norm_before", True):
        return None, "an opt with its norms after the layers is not known"
    bias = bool(config.get("enable_bias", True))
    return DecoderShape(
        model_type="opt",
        hidden=hidden,
        intermediate=int(config["ffn_dim"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary=int(config["vocab_size"]),
        positions=int(config["max_position_embeddings"]) + 2,  # the table begins with two pads
        tied=bool(config.get("tie_word_embeddings", True)),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        residual_dropout=float(config.get("dropout", 0.1)) > 0,
        attention_dropout=float(config.get("attention_dropout", 0.0)) > 0,
    ), None
