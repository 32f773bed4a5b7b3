"""config.json of a model: read, and looked at for what qbench needs of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.untrusted import cleaned, in_one_line, read_bounded, visible
from qbench.sources.shapes.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from pathlib import Path

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
_SIZES = (
    "ffn_dim", "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "n_embd",
    "n_head", "n_inner", "n_layer", "n_positions", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "vocab_size", "word_embed_proj_dim",
)  # fmt: skip
"""What is counted in architectures that qbench itself knows."""
_LARGEST_SIZE = 2**31
_MOST_LAYERS = 10_000
LARGEST_BYTES = 2**26
"""Of a JSON file in a model's folder; the index of a thousand shards has a hundredth of it."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a model's folder; `ModelError` where there is none to be read."""
    if not folder.exists():
        raise ModelError(f"{folder}: no such folder; check the path, or give a hub id (owner/name)")
    if not folder.is_dir():
        raise ModelError(f"{folder}: found a file; expected the folder that holds config.json")
    path = folder / "config.json"
    if not path.is_file():
        hint = (
            "; this folder holds an adapter: merge it into its base and save that"
            if (folder / "adapter_config.json").is_file()
            else "; check the path, or save the model there with save_pretrained"
        )
        raise ModelError(f"{folder}: found no config.json; expected a model folder{hint}")
    return parse_config(read_bounded(path, LARGEST_BYTES), str(path))


def parse_config(contents: bytes, place: str) -> dict[str, Any]:
    """A config.json as an object, its texts harmless; `ModelError` with the place for no such."""
    try:
        config = cleaned(json.loads(contents.decode()), visible)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{place}: found no valid JSON ({error}); expected a model's configuration; copy or"
            " download it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"{place}: found a JSON {type(config).__name__}; expected an object; copy or download"
            " it again"
        )
    return config


def check_config(config: dict[str, Any], place: str) -> str:
    """The architecture; raises `ModelError` for a model that qbench cannot take as it is."""
    architecture = config.get("model_type")
    if not isinstance(architecture, str) or not re.fullmatch(r"[\w.-]{1,100}", architecture):
        found = "no model_type" if not architecture else f"model_type {_shown(architecture)}"
        raise ModelError(
            f"{place}: config.json has {found}; expected the architecture's name, such as"
            " llama; save the model with a current version of transformers"
        )
    if architecture in ARCHITECTURES:
        _check_sizes(config, place)
    if config.get("transformers_weights") is not None:
        raise ModelError(
            f"{place}: config.json names its file of weights itself (transformers_weights);"
            " expected the weights where save_pretrained writes them; rename the file to"
            " model.safetensors and remove the key"
        )
    return architecture


def _check_sizes(config: dict[str, Any], place: str) -> None:
    """Raises `ModelError` for a size that is none, where each is one number for all layers."""
    for key in _SIZES:
        size = config.get(key)
        most = _MOST_LAYERS if key in {"num_hidden_layers", "n_layer"} else _LARGEST_SIZE
        if size is not None and not (type(size) is int and 0 < size <= most):
            raise ModelError(
                f"{place}: config.json has {key}: {_shown(size)}; expected a whole number from 1 to"
                f" {most:,}; copy or download it again"
            )


def _shown(value: object) -> str:
    """A value as JSON writes it, short enough for a message."""
    return in_one_line(json.dumps(value))


def context_tokens(config: dict[str, Any]) -> int | None:
    """The longest input that it states, in tokens; None where it states none."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in _CONTEXT_KEYS:
                value = part.get(key)
                if isinstance(value, int) and value > 0:
                    return value
    return None
