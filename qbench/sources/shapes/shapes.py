"""Shapes of all tensors of a model as loaded, by the headers of its files.

They are enough for the architectures in `qbench.sources.shapes.architectures`, in milliseconds. Of
any other, transformers is asked: see `qbench.sources.shapes.from_meta`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.spec import ModelShape, TensorShape
from qbench.sources.models.headers import same_values
from qbench.sources.models.layer_types import layer_types
from qbench.sources.shapes.architectures import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.sources.models.headers import StoredTensor

_FULL_ROTARY_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Rotary embeddings with one frequency for every two dimensions of a head."""


def shape_from_headers(
    tensors: Mapping[str, StoredTensor], config: dict[str, Any], place: str
) -> ModelShape | None:
    """The model's tensors from what its files hold; None where that is not enough to know.

    `place` names the model in messages. Raises `ModelError` when the head is missing: transformers
    would fill it with random numbers.
    """
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        return None
    stored = _loaded_names(tensors, architecture)
    found: dict[str, TensorShape] = {}
    for name, tensor in stored.items():
        role = _role(name, architecture)
        if role is None:
            return None
        wide = role == "buffer"
        found[name] = TensorShape.model_validate(
            {
                "name": name,
                "shape": tensor.shape,
                "role": role,
                "transposed": architecture.transposed and role == "linear",
                "dtype": "float32" if wide else None,
                "wide_in_fp16": architecture.wide_norms_in_fp16 and role == "norm",
            }
        )
    if not _has_exactly_its_layers(found, architecture, config):
        return None
    _tie(found, stored, architecture, config, place)
    if f"{architecture.prefix}.{architecture.tied_embedding}.weight" not in found:
        return None
    buffers = _buffers(architecture, config)
    if buffers is None:
        return None
    found |= {tensor.name: tensor for tensor in buffers}
    return ModelShape(tensors=tuple(found[name] for name in sorted(found)), origin="header")


def _loaded_names(
    tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> dict[str, StoredTensor]:
    """What of the checkpoint is loaded, under the names it has in the loaded model."""
    loaded = {}
    for name, stored in tensors.items():
        inner = name.removeprefix(f"{architecture.prefix}.")
        if re.fullmatch(architecture.ignored, inner):
            continue
        of_head = inner.rpartition(".")[0] == architecture.head
        loaded[inner if of_head else f"{architecture.prefix}.{inner}"] = stored
    return loaded


def _role(name: str, architecture: Architecture) -> str | None:
    module, _, parameter = name.rpartition(".")
    whole = name.removeprefix(f"{architecture.prefix}.")
    if re.fullmatch(architecture.other, whole):
        return "other"
    if re.fullmatch(architecture.wide_buffer, whole):
        return "buffer"
    if parameter not in ("weight", "bias"):
        return None
    if module == architecture.head:
        return "head" if parameter == "weight" else None
    inner = module.removeprefix(f"{architecture.prefix}.")
    for pattern, role in architecture.roles:
        if pattern.fullmatch(inner):
            return "bias" if (role, parameter) == ("linear", "bias") else role
    return None


def _has_exactly_its_layers(
    found: Mapping[str, TensorShape], architecture: Architecture, config: Mapping[str, Any]
) -> bool:
    """Whether the layers in the files are those of config.json, which decides what is loaded."""
    numbers = {
        int(part)
        for name, tensor in found.items()
        if tensor.role != "head"
        for part in name.removeprefix(architecture.prefix).split(".")
        if part.isdigit()
    }
    count = config.get("num_hidden_layers", config.get("n_layer"))
    return isinstance(count, int) and numbers == set(range(count))


def _tie(
    found: dict[str, TensorShape],
    stored: Mapping[str, StoredTensor],
    architecture: Architecture,
    config: Mapping[str, Any],
    place: str,
) -> None:
    """Leaves head and embedding in `found` as transformers ties them, in place."""
    head = f"{architecture.head}.weight"
    embedding = f"{architecture.prefix}.{architecture.tied_embedding}.weight"
    if not config.get("tie_word_embeddings", architecture.tied_by_default):
        if head not in found:
            raise ModelError(
                f"{place}: found no output head ({head}) while config.json does not tie it to the"
                " embedding; expected the weights of a causal language model; set"
                " tie_word_embeddings to true if they share one matrix, else save it with"
                " AutoModelForCausalLM"
            )
    elif head in found and embedding in found:
        # Both were saved: they are tied only if they are equal. Without the data (a hub model that
        # is not downloaded yet) the configuration is believed.
        if not stored[head].file or same_values(stored[head], stored[embedding]):
            del found[head]
    elif head in found:
        # Only the head was saved: it becomes the embedding.
        renamed = {"name": embedding, "role": "embedding"}
        found[embedding] = found.pop(head).model_copy(update=renamed)


def _buffers(architecture: Architecture, config: Mapping[str, Any]) -> list[TensorShape] | None:
    """The buffers that the model makes itself; None where their sizes are not known."""
    found: dict[str, tuple[tuple[int, ...], str | None]] = {}
    if architecture.scaled_embedding:
        found[f"{architecture.tied_embedding}.embed_scale"] = (), None
    kinds: Sequence[str | None] = ()
    if architecture.rotary == "one":
        kinds = (None,)
    elif architecture.rotary == "by layer type":
        try:
            kinds = sorted(set(layer_types(config)))
        except (KeyError, TypeError, ValueError):
            return None
    for kind in kinds:
        frequencies = _rotary_frequencies(config, kind)
        if frequencies is None:
            return None
        for own_name in ("inv_freq", "original_inv_freq"):
            name = own_name if kind is None else f"{kind}_{own_name}"
            # transformers keeps them in fp32 whatever type the weights are loaded in.
            found[f"rotary_emb.{name}"] = (frequencies,), "float32"
    return [
        TensorShape(name=f"{architecture.prefix}.{name}", shape=shape, role="buffer", dtype=dtype)
        for name, (shape, dtype) in found.items()
    ]


def _rotary_frequencies(config: Mapping[str, Any], layer_type: str | None) -> int | None:
    """Length of the rotary buffers, half the width of a head; None for partial or other kinds."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope, dict) and isinstance(rope.get(layer_type), dict):
        rope = rope[layer_type]
    if not isinstance(rope, dict):
        return None
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str):
        return None
    partial = config.get("partial_rotary_factor", rope.get("partial_rotary_factor"))
    if kind not in _FULL_ROTARY_TYPES or partial not in (None, 1, 1.0):
        return None
    width = config.get("qk_rope_head_dim") or config.get("head_dim")
    if width is None:
        hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
        if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
            return None
        width = hidden // heads
    return (int(width) + 1) // 2
