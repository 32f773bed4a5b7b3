"""What decides how many bytes a training step takes: the model's sizes and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.number_types import BF16, FP16, ITEM_BYTES, AutocastType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.precisions.products import ProductKind, Products

ROTARY_TYPES = ("llama", "mistral", "qwen2")
MODEL_TYPES = (*ROTARY_TYPES, "gpt2", "opt")
_SILU = ("silu", "swish")

INFERRED: frozenset[ProductKind] = frozenset({"floating", "dequantized", "4bit", "outliers"})
"""Products whose bytes are known of a forward pass."""
TRAINED: frozenset[ProductKind] = frozenset({"floating", "4bit", "outliers"})
"""Products whose bytes are known of a training step: what of them is kept for the way back."""
UNKNOWN_LAYERS = "how the layers of this precision compute is not known here"


@dataclass(frozen=True)
class Linear:
    """A linear layer of a block."""

    inputs: int
    outputs: int
    bias: bool = False


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder."""

    model_type: str
    """transformers' name of the architecture: one of `MODEL_TYPES`."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    """Rows of the table of learned positions; 0 where positions are rotary."""
    tied: bool
    """Whether the head is the embedding's matrix."""
    attention_bias: bool = False
    """Whether the layers before the attention (of qwen2: query, key and value) have biases."""
    output_bias: bool = False
    """Whether the layer after it has one."""
    mlp_bias: bool = False
    residual_dropout: bool = False
    """Whether some of each block's output, and in GPT-2 of the embedding, is dropped."""
    attention_dropout: bool = False

    @property
    def gated(self) -> bool:
        """Whether the block's second half is down(silu(gate)·up); else down(activation(up))."""
        return self.model_type in ROTARY_TYPES

    @property
    def norm(self) -> Literal["rms", "layer"]:
        """The kind of norm; only a layer norm has a bias."""
        return "rms" if self.gated else "layer"

    @property
    def linears(self) -> dict[str, Linear]:
        """The linear layers of one block, by their name within it, in the model's order."""
        attended, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.model_type == "gpt2":
            return {
                "attn.c_attn": Linear(self.hidden, 3 * self.hidden, bias=True),
                "attn.c_proj": Linear(self.hidden, self.hidden, bias=True),
                "mlp.c_fc": Linear(self.hidden, self.intermediate, bias=True),
                "mlp.c_proj": Linear(self.intermediate, self.hidden, bias=True),
            }
        query = Linear(self.hidden, attended, self.attention_bias)
        shorter = Linear(self.hidden, shared, self.attention_bias)
        if self.model_type == "opt":
            return {
                "k_proj": shorter,
                "v_proj": shorter,
                "q_proj": query,
                "out_proj": Linear(attended, self.hidden, self.output_bias),
                "fc1": Linear(self.hidden, self.intermediate, self.mlp_bias),
                "fc2": Linear(self.intermediate, self.hidden, self.mlp_bias),
            }
        return {
            "q_proj": query,
            "k_proj": shorter,
            "v_proj": shorter,
            "o_proj": Linear(attended, self.hidden, self.output_bias),
            "gate_proj": Linear(self.hidden, self.intermediate, self.mlp_bias),
            "up_proj": Linear(self.hidden, self.intermediate, self.mlp_bias),
            "down_proj": Linear(self.intermediate, self.hidden, self.mlp_bias),
        }


@dataclass(frozen=True)
class TrainingSetup:
    """How it is trained."""

    batch: int
    """Sequences of one forward pass."""
    tokens: int
    """Of each sequence, padding included."""
    method: Literal["full", "lora"]
    products: Products
    """How the linear layers multiply: of full tuning, in the master weights' type."""
    compute: AutocastType = BF16
    """Autocast type; fp32: no autocast, each layer computes in its weights' type."""
    targets: frozenset[str] = frozenset()
    """Last names of the layers with an adapter (`q_proj`)."""
    rank: int = 0
    adapter_dropout: bool = False
    checkpointing: bool = False
    attention: Literal["sdpa", "eager"] = "sdpa"
    padded: bool = False
    """Whether some sequence of the batch is: attention then takes a mask."""
    accumulate: int = 1
    """Forward passes of one step."""
    optimizer: str = "adamw"
    """`adamw` is torch's; all others are bitsandbytes', which take nothing besides their state."""
    device: Literal["cpu", "cuda"] = "cpu"
    by_definition: bool = False
    """Whether attention has no kernel that keeps no scores; see `lacks_kernel`."""

    @property
    def rest_bytes(self) -> int:
        """Bytes an element of what is not quantized."""
        return ITEM_BYTES[self.products.rest]


def lacks_kernel(shape: DecoderShape, setup: TrainingSetup, *, flash: bool) -> bool:
    """Whether none of CUDA's kernels takes this attention, so that it keeps all scores.

    Flash attention takes 16-bit types alone; where there is none, no other takes bf16. Without it,
    none takes fewer heads of keys than of queries, which transformers copies where there is a mask.
    """
    if setup.device != "cuda" or setup.attention != "sdpa":
        return False
    own = BF16 if setup.compute == BF16 else setup.products.rest
    if flash and own in {BF16, FP16}:
        return False
    return own == BF16 or (shape.heads > shape.kv_heads and not setup.padded)


def unpredicted(shape: DecoderShape, setup: TrainingSetup) -> str | None:
    """Why the bytes of this training are not known; None if they are."""
    in_blocks = {name.rpartition(".")[2] for name in shape.linears}
    outside = sorted(setup.targets - in_blocks)
    if setup.method == "lora" and outside:
        return f"the activations of an adapter on {', '.join(outside)} are not known"
    if FP16 in {setup.products.rest, setup.products.compute}:
        return "the activations of an fp16 model, between fp16 and autocast's bf16, are not known"
    return None


def decoder_shape(config: Mapping[str, Any]) -> tuple[DecoderShape | None, str | None]:
    """The sizes in a transformers configuration (`config.json`, or `config.to_dict()`).

    None and the reason for an architecture whose operations are not known here.
    """
    model_type = str(config.get("model_type"))
    if model_type not in MODEL_TYPES:
        return None, (
            f"the activations of {model_type} are not known, only those of {', '.join(MODEL_TYPES)}"
        )
    try:
        return _stated(config, model_type)
    except KeyError as error:
        return None, f"config.json does not state {error.args[0]}"
    except (TypeError, ValueError, ArithmeticError) as error:
        return None, f"config.json states sizes that do not go together ({error})"


def _stated(config: Mapping[str, Any], model_type: str) -> tuple[DecoderShape | None, str | None]:
    if model_type == "gpt2":
        return _gpt2(config)
    if model_type == "opt":
        return _opt(config)
    activation = config.get("hidden_act", "silu")
    if activation not in _SILU:
        return None, f"the activation {activation} is not known, only {', '.join(_SILU)}"
    heads = int(config["num_attention_heads"])
    bias = bool(config.get("attention_bias", False))
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
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bias or model_type == "qwen2",
        output_bias=bias and model_type == "llama",
        mlp_bias=bool(config.get("mlp_bias", False)),
        attention_dropout=float(config.get("attention_dropout") or 0) > 0,
    ), None


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
