"""config.json of a model: read, and looked at for what qbench needs of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qbench.errors import ModelError

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
    return parse_config(path.read_bytes(), str(path))


def parse_config(contents: bytes, place: str) -> dict[str, Any]:
    """A config.json as an object; raises `ModelError` that names `place` when it is none."""
    try:
        config = json.loads(contents)
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
    if not isinstance(architecture, str) or not architecture:
        raise ModelError(
            f"{place}: config.json has no model_type; expected the architecture's name, such as"
            " llama; save the model with a current version of transformers"
        )
    if config.get("transformers_weights") is not None:
        raise ModelError(
            f"{place}: config.json names its file of weights itself (transformers_weights);"
            " expected the weights where save_pretrained writes them; rename the file to"
            " model.safetensors and remove the key"
        )
    return architecture


def context_tokens(config: dict[str, Any]) -> int | None:
    """The longest input that it states, in tokens; None where it states none."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in _CONTEXT_KEYS:
                value = part.get(key)
                if isinstance(value, int) and value > 0:
                    return value
    return None
