"""Which of a model's layers an adapter is put beside, told from names and shapes alone.

The names are matched by PEFT's own rules.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from qbench.core.names import what_there_is

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import ModelShape, TensorShape

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

TIED_HEAD = "lm_head"
"""A layer without a tensor of its own, where the head is the embedding."""
_OF_POSITIONS = re.compile(r"wpe|pos")


def targeted(
    shape: ModelShape,
    architecture: str,
    target: Literal["default", "all-linear"] | Sequence[str],
) -> tuple[TensorShape, ...] | None:
    """The weights that an adapter is put beside; None where they are not known."""
    return _targeted(shape, architecture, target if isinstance(target, str) else tuple(target))


@lru_cache(maxsize=256)
def _targeted(
    shape: ModelShape, architecture: str, target: str | tuple[str, ...]
) -> tuple[TensorShape, ...] | None:
    """Asked for at every item of a tuned cell."""
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


def target_names(
    shape: ModelShape,
    architecture: str,
    target: Literal["default", "all-linear"] | Sequence[str],
) -> frozenset[str]:
    """Last names of the layers that an adapter is put beside (`q_proj`); none where not known."""
    chosen = targeted(shape, architecture, target) or ()
    return frozenset(tensor.name.removesuffix(".weight").rpartition(".")[2] for tensor in chosen)


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
            return f"{name!r}: no layer of the model has that name; {what_there_is(name, known)}"
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


def tied_matrices(shape: ModelShape) -> list[str]:
    """What shares a matrix where the head is the embedding's."""
    return [TIED_HEAD, *map(module_name, token_embeddings(shape))]


def under(module: str, name: str) -> bool:
    """Whether a module, or one that it lies in, has a name that ends so: PEFT's own rule."""
    parts = module.split(".")
    return any(".".join(parts[:end]).endswith(name) for end in range(1, len(parts) + 1))
