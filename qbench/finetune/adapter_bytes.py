"""What a LoRA adapter weighs, by arithmetic from the base's shapes: nothing is loaded.

A targeted layer of `in` inputs and `out` outputs gets factors of r × in and out × r: r·(in + out)
weights. DoRA adds one magnitude an output. Hu et al. 2021, arXiv 2106.09685; Liu et al. 2024,
arXiv 2402.09353.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from qbench.finetune.deploy import WHOLE_MODELS, compute_type
from qbench.names import did_you_mean
from qbench.precisions.storage import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.spec import Deployment, ModelShape, PrecisionRef, TensorShape, TuningRef

DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
}
"""PEFT's own choice by `model_type`: a part of its table, whose import would take seconds."""

_MAGNITUDE_BYTES = 4
TIED_HEAD = "lm_head"
"""A layer without a tensor of its own, where the head is the embedding."""
_OF_POSITIONS = re.compile(r"wpe|pos")


def adapter_static_bytes(
    shape: ModelShape,
    architecture: str,
    tuning: TuningRef,
    deploy: Deployment,
    precision: PrecisionRef,
) -> int | None:
    """Bytes that the adapter of a served cell takes beside its base; 0 where none is attached.

    `architecture` is the base's `model_type`, `precision` what the cell is held in. None where it
    is not known from the shapes: targets that they do not tell, or arguments given to PEFT as they
    are.
    """
    options = tuning.options
    if tuning.method in WHOLE_MODELS or deploy.startswith(("merged", "quantized")):
        return None if _unties(shape, options.get("extra") or {}) else 0
    chosen = targeted(shape, architecture, options["target"])
    if chosen is None or options.get("extra"):
        return None
    # What PiSSA and OLoRA began with is saved beside what they became.
    rank: int = options["rank"] * (2 if options.get("init") in {"pissa", "olora"} else 1)
    factors = sum(rank * sum(tensor.shape) for tensor in chosen)
    magnitudes = sum(tensor.out_features for tensor in chosen) if options.get("dora") else 0
    return factors * ITEM_BYTES[compute_type(precision)] + magnitudes * _MAGNITUDE_BYTES


def targeted(
    shape: ModelShape,
    architecture: str,
    target: Literal["default", "all-linear"] | Sequence[str],
) -> tuple[TensorShape, ...] | None:
    """The weights that an adapter is put beside; None where they are not known."""
    if target == "all-linear":
        return tuple(tensor for tensor in shape.tensors if tensor.role == "linear")
    matrices = [
        tensor
        for tensor in shape.tensors
        if tensor.role in {"linear", "head", "embedding"} and len(tensor.shape) == 2
    ]
    names = DEFAULT_TARGETS.get(architecture) if target == "default" else target
    if names is None:
        return None
    found: dict[str, list[TensorShape]] = {
        name: [t for t in matrices if f".{module_name(t)}".endswith(f".{name}")] for name in names
    }
    if not all(found.values()):
        return None
    every = {tensor.name: tensor for matches in found.values() for tensor in matches}
    return tuple(every.values())


def unknown_target(shape: ModelShape | None, target: str | Sequence[str]) -> str | None:
    """What is wrong with layers that are named; None if each is there, or nothing is known."""
    if shape is None or isinstance(target, str):
        return None
    modules = [module_name(tensor) for tensor in shape.tensors if len(tensor.shape) > 1]
    if all(tensor.role != "head" for tensor in shape.tensors):
        modules.append(TIED_HEAD)
    for name in target:
        if not any(f".{module}".endswith(f".{name}") for module in modules):
            known = dict.fromkeys(module.rpartition(".")[2] for module in modules)
            return f"{name!r}: no layer of the model has that name; {did_you_mean(name, known)}"
    return None


def module_name(tensor: TensorShape) -> str:
    """The module that a tensor belongs to."""
    return tensor.name.rpartition(".")[0]


def is_tied(shape: ModelShape) -> bool:
    """Whether the output head is the embedding's matrix."""
    return all(tensor.role != "head" for tensor in shape.tensors)


def token_embeddings(shape: ModelShape) -> list[TensorShape]:
    """The embedding of tokens, without that of positions."""
    return [
        tensor
        for tensor in shape.tensors
        if tensor.role == "embedding" and not _OF_POSITIONS.search(tensor.name)
    ]


def under(module: str, name: str) -> bool:
    """Whether a module, or one that it lies in, has a name that ends so: PEFT's own rule."""
    parts = module.split(".")
    return any(".".join(parts[:end]).endswith(name) for end in range(1, len(parts) + 1))


def _unties(shape: ModelShape, extra: Mapping[str, Any]) -> bool:
    """Whether a tied head and its embedding become two matrices, of which one was trained."""
    matrices = [TIED_HEAD, *map(module_name, token_embeddings(shape))]
    return (
        is_tied(shape)
        and not extra.get("ensure_weight_tying")
        and any(
            under(matrix, name)
            for name in extra.get("modules_to_save") or ()
            for matrix in matrices
        )
    )
