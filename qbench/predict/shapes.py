"""What decides how many bytes a training step takes: the model's sizes and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.core.number_types import BF16, FP16, ITEM_BYTES, AutocastType

if TYPE_CHECKING:
    from qbench.precisions.products import ProductKind, Products

GATED_TYPES = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3", "gemma3_text"),
    *("mixtral", "qwen3_moe", "gpt_oss", "gemma2"),
)
MODEL_TYPES = (*GATED_TYPES, "gpt2", "opt")
TRAINED_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2", "opt"})
"""Those of which it is known what a forward pass keeps for the way back."""

INFERRED: frozenset[ProductKind] = frozenset(
    {"floating", "dequantized", "packed", "4bit", "outliers"}
)
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
class Experts:
    """The experts of a layer, of which a router sends each token to some."""

    count: int
    chosen: int
    """How many of them read a token."""
    intermediate: int
    biased: bool = False
    """Whether they have biases and the clamped gate of gpt-oss."""


@dataclass(frozen=True)
class LayerSort:
    """What can differ from layer to layer."""

    window: int | None = None
    """Tokens that its attention looks back, itself included; None where it sees all."""
    rotary: bool = True
    experts: bool = False
    """Whether its second half is a mixture."""


PLAIN = LayerSort()


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
    capped_scores: bool = False
    """Whether scores go through a tanh, which no fused kernel knows."""
    capped_logits: bool = False
    """Whether logits do."""
    experts: Experts | None = None
    sorts: tuple[LayerSort, ...] = ()
    """Of each layer; empty where all are plain."""

    def sort(self, layer: int) -> LayerSort:
        """What the layer of that number is."""
        return self.sorts[layer] if self.sorts else PLAIN

    @property
    def gated(self) -> bool:
        """Whether the block's second half is down(silu(gate)·up); else down(activation(up))."""
        return self.model_type in GATED_TYPES

    @property
    def norm(self) -> Literal["rms", "wide rms", "gemma", "layer"]:
        """The kind of norm; only a layer norm has a bias."""
        kinds: dict[str, Literal["wide rms", "gemma"]] = {
            "olmo2": "wide rms",
            "gpt_oss": "wide rms",
            "gemma2": "gemma",
            "gemma3_text": "gemma",
        }
        return kinds.get(self.model_type, "rms") if self.gated else "layer"

    @property
    def norms_before(self) -> bool:
        """Whether each half of a block begins with a norm."""
        return self.model_type != "olmo2"

    @property
    def norms_after(self) -> bool:
        """Whether each half of a block ends with a norm, before it is added."""
        return self.model_type in {"olmo2", "gemma2", "gemma3_text"}

    @property
    def normed_queries(self) -> Literal["each head", "all"] | None:
        """Over what queries and keys are normed, if they are."""
        if self.model_type in {"qwen3", "qwen3_moe", "gemma3_text"}:
            return "each head"
        return "all" if self.model_type == "olmo2" else None

    @property
    def has_sinks(self) -> bool:
        """Whether the attention's softmax has a sink a head, which no fused kernel knows."""
        return self.model_type == "gpt_oss"

    @property
    def holds_scores(self) -> bool:
        """Whether transformers has no fused kernel for the attention: `_supports_sdpa` is false."""
        return self.model_type in {"gemma2", "gpt_oss"}

    @property
    def joined(self) -> bool:
        """Whether query, key and value are one layer, and gate and up another."""
        return self.model_type == "phi3"

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
        output = Linear(attended, self.hidden, self.output_bias)
        if self.joined:
            return {
                "o_proj": output,
                "qkv_proj": Linear(self.hidden, attended + 2 * shared),
                "gate_up_proj": Linear(self.hidden, 2 * self.intermediate),
                "down_proj": Linear(self.intermediate, self.hidden),
            }
        return {
            "q_proj": query,
            "k_proj": shorter,
            "v_proj": shorter,
            "o_proj": output,
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
    if shape.model_type not in TRAINED_TYPES:
        return (
            f"what {shape.model_type} keeps for the way back is not known, only of"
            f" {', '.join(sorted(TRAINED_TYPES))}"
        )
    if len(set(shape.sorts)) > 1:
        return "what layers of several kinds keep for the way back is not known"
    in_blocks = {name.rpartition(".")[2] for name in shape.linears}
    outside = sorted(setup.targets - in_blocks)
    if setup.method == "lora" and outside:
        return f"the activations of an adapter on {', '.join(outside)} are not known"
    if FP16 in {setup.products.rest, setup.products.compute}:
        return "the activations of an fp16 model, between fp16 and autocast's bf16, are not known"
    return None
