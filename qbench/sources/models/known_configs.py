"""Configurations of well-known models that ship with qbench, so that planning needs no hub.

Each is a folder `configs/<name>/` with the config.json that the model is published with: sizes, no
weights. The tests compare the number of weights that follows with the published one.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "bundled" / "configs"

HUB_IDS = {
    "mistralai/Mistral-7B-Instruct-v0.2": "Mistral-7B-Instruct-v0.2",
    "mistralai/Mistral-7B-v0.1": "Mistral-7B-v0.1",
    "meta-llama/Llama-2-7b-hf": "Llama-2-7B",
    "meta-llama/Llama-2-13b-hf": "Llama-2-13B",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "TinyLlama-1.1B",
    "meta-llama/Meta-Llama-3-8B": "Llama-3-8B",
    "meta-llama/Meta-Llama-3-70B": "Llama-3-70B",
    "meta-llama/Llama-3.1-8B": "Llama-3.1-8B",
    "meta-llama/Llama-3.2-1B": "Llama-3.2-1B",
    "Qwen/Qwen2.5-7B": "Qwen2.5-7B",
    "Qwen/Qwen2.5-0.5B": "Qwen2.5-0.5B",
    "openai-community/gpt2": "gpt2",
    "microsoft/DialoGPT-medium": "DialoGPT-medium",
}
"""Names of the configurations by where their models are published."""

_ALIASES = {"Mistral-7B": "Mistral-7B-v0.1", "TinyLlama": "TinyLlama-1.1B"}


def known_configs() -> dict[str, Path]:
    """Folders that hold the known configurations, by name."""
    return {path.parent.name: path.parent for path in sorted(_FOLDER.glob("*/config.json"))}


def known_name(text: str) -> str | None:
    """The configuration's own name for a name or hub id in any case; None if it is not known."""
    names = {name.casefold(): name for name in known_configs()}
    names |= {other.casefold(): name for other, name in (HUB_IDS | _ALIASES).items()}
    return names.get(text.casefold())
