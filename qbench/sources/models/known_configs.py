"""Configurations of well-known models that ship with qbench, so that planning needs no hub.

Each is a folder `configs/<name>/` with the config.json that the model is published with: sizes, no
weights. The tests compare the number of weights that follows with the published one.
"""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "bundled" / "configs"

HUB_IDS = {
    "mistralai/Mistral-7B-Instruct-v0.2": "Mistral-7B-Instruct-v0.2",
    "mistralai/Mistral-7B-v0.1": "Mistral-7B-v0.1",
    "mistralai/Mistral-7B-v0.3": "Mistral-7B-v0.3",
    "mistralai/Mistral-7B-Instruct-v0.3": "Mistral-7B-v0.3",
    "mistralai/Mistral-Nemo-Base-2407": "Mistral-Nemo-2407",
    "mistralai/Mistral-Nemo-Instruct-2407": "Mistral-Nemo-2407",
    "mistralai/Mistral-Small-24B-Base-2501": "Mistral-Small-24B-2501",
    "mistralai/Mistral-Small-24B-Instruct-2501": "Mistral-Small-24B-2501",
    "mistralai/Mixtral-8x7B-v0.1": "Mixtral-8x7B-v0.1",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "Mixtral-8x7B-v0.1",
    "mistralai/Mixtral-8x22B-v0.1": "Mixtral-8x22B-v0.1",
    "meta-llama/Llama-2-7b-hf": "Llama-2-7B",
    "meta-llama/Llama-2-7b-chat-hf": "Llama-2-7B",
    "meta-llama/Llama-2-13b-hf": "Llama-2-13B",
    "meta-llama/Llama-2-13b-chat-hf": "Llama-2-13B",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "TinyLlama-1.1B",
    "meta-llama/Meta-Llama-3-8B": "Llama-3-8B",
    "meta-llama/Meta-Llama-3-8B-Instruct": "Llama-3-8B",
    "meta-llama/Meta-Llama-3-70B": "Llama-3-70B",
    "meta-llama/Meta-Llama-3-70B-Instruct": "Llama-3-70B",
    "meta-llama/Llama-3.1-8B": "Llama-3.1-8B",
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "Llama-3.1-70B",
    "meta-llama/Llama-3.1-70B-Instruct": "Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B": "Llama-3.1-405B",
    "meta-llama/Llama-3.1-405B-Instruct": "Llama-3.1-405B",
    "meta-llama/Llama-3.2-1B": "Llama-3.2-1B",
    "meta-llama/Llama-3.2-1B-Instruct": "Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B": "Llama-3.2-3B",
    "meta-llama/Llama-3.2-3B-Instruct": "Llama-3.2-3B",
    "meta-llama/Llama-3.3-70B-Instruct": "Llama-3.3-70B-Instruct",
    "Qwen/Qwen2.5-0.5B": "Qwen2.5-0.5B",
    "Qwen/Qwen2.5-0.5B-Instruct": "Qwen2.5-0.5B",
    "Qwen/Qwen2.5-1.5B": "Qwen2.5-1.5B",
    "Qwen/Qwen2.5-1.5B-Instruct": "Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-3B": "Qwen2.5-3B",
    "Qwen/Qwen2.5-3B-Instruct": "Qwen2.5-3B",
    "Qwen/Qwen2.5-7B": "Qwen2.5-7B",
    "Qwen/Qwen2.5-7B-Instruct": "Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-14B": "Qwen2.5-14B",
    "Qwen/Qwen2.5-14B-Instruct": "Qwen2.5-14B-Instruct",
    "Qwen/Qwen2.5-32B": "Qwen2.5-32B",
    "Qwen/Qwen2.5-32B-Instruct": "Qwen2.5-32B-Instruct",
    "Qwen/Qwen2.5-72B": "Qwen2.5-72B",
    "Qwen/Qwen2.5-72B-Instruct": "Qwen2.5-72B-Instruct",
    "Qwen/Qwen3-0.6B": "Qwen3-0.6B",
    "Qwen/Qwen3-1.7B": "Qwen3-1.7B",
    "Qwen/Qwen3-4B": "Qwen3-4B",
    "Qwen/Qwen3-4B-Instruct-2507": "Qwen3-4B-2507",
    "Qwen/Qwen3-4B-Thinking-2507": "Qwen3-4B-2507",
    "Qwen/Qwen3-8B": "Qwen3-8B",
    "Qwen/Qwen3-14B": "Qwen3-14B",
    "Qwen/Qwen3-32B": "Qwen3-32B",
    "Qwen/Qwen3-30B-A3B": "Qwen3-30B-A3B",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen3-30B-A3B-2507",
    "Qwen/Qwen3-30B-A3B-Thinking-2507": "Qwen3-30B-A3B-2507",
    "Qwen/Qwen3-235B-A22B": "Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Instruct-2507": "Qwen3-235B-A22B-2507",
    "Qwen/Qwen3-235B-A22B-Thinking-2507": "Qwen3-235B-A22B-2507",
    "google/gemma-2-2b": "Gemma-2-2b",
    "google/gemma-2-2b-it": "Gemma-2-2b",
    "google/gemma-2-9b": "Gemma-2-9b",
    "google/gemma-2-9b-it": "Gemma-2-9b",
    "google/gemma-2-27b": "Gemma-2-27b",
    "google/gemma-2-27b-it": "Gemma-2-27b",
    "google/gemma-3-1b-pt": "Gemma-3-1b",
    "google/gemma-3-1b-it": "Gemma-3-1b",
    "microsoft/Phi-3-mini-4k-instruct": "Phi-3-mini-4k",
    "microsoft/phi-4": "Phi-4",
    "HuggingFaceTB/SmolLM3-3B": "SmolLM3-3B",
    "allenai/OLMo-2-0425-1B": "OLMo-2-0425-1B",
    "allenai/OLMo-2-0425-1B-Instruct": "OLMo-2-0425-1B",
    "allenai/OLMo-2-1124-7B": "OLMo-2-1124-7B",
    "allenai/OLMo-2-1124-7B-Instruct": "OLMo-2-1124-7B",
    "allenai/OLMo-2-1124-13B": "OLMo-2-1124-13B",
    "allenai/OLMo-2-1124-13B-Instruct": "OLMo-2-1124-13B",
    "allenai/OLMo-2-0325-32B": "OLMo-2-0325-32B",
    "allenai/OLMo-2-0325-32B-Instruct": "OLMo-2-0325-32B",
    "openai-community/gpt2": "gpt2",
    "microsoft/DialoGPT-medium": "DialoGPT-medium",
}
"""Names of the configurations by where checkpoints of exactly that shape are published."""

QUANTIZED = {
    "Qwen/Qwen2.5-7B-Instruct-AWQ": ("Qwen2.5-7B-Instruct", "awq"),
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": ("Qwen2.5-7B-Instruct", "gptq"),
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8": ("Qwen2.5-7B-Instruct", "gptq"),
    "RedHatAI/Qwen2.5-7B-Instruct-FP8-dynamic": ("Qwen2.5-7B-Instruct", "compressed-tensors"),
    "RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8": ("Qwen2.5-7B-Instruct", "compressed-tensors"),
}
"""Published checkpoints that are quantized: the configuration of their original, and the
`quant_method` of their own. What each of their tensors holds is in their files alone."""

_ALIASES = {
    "Mistral-7B": "Mistral-7B-v0.1",
    "TinyLlama": "TinyLlama-1.1B",
    "Mistral-Nemo": "Mistral-Nemo-2407",
    "Mistral-Small-24B": "Mistral-Small-24B-2501",
    "Mixtral-8x7B": "Mixtral-8x7B-v0.1",
    "Mixtral-8x22B": "Mixtral-8x22B-v0.1",
    "Llama-3.3-70B": "Llama-3.3-70B-Instruct",
    "OLMo-2-1B": "OLMo-2-0425-1B",
    "OLMo-2-7B": "OLMo-2-1124-7B",
    "OLMo-2-13B": "OLMo-2-1124-13B",
    "OLMo-2-32B": "OLMo-2-0325-32B",
    "Phi-3-mini": "Phi-3-mini-4k",
    # The text model, of checkpoints that read images too.
    **{
        name: f"Gemma-3-{size}-text"
        for size in ("4b", "12b", "27b")
        for name in (
            f"Gemma-3-{size}",
            f"google/gemma-3-{size}-pt",
            f"google/gemma-3-{size}-it",
        )
    },
    # The model as it is unquantized, of checkpoints that hold codes of fp8 or MXFP4.
    "openai/gpt-oss-20b": "gpt-oss-20b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "deepseek-ai/DeepSeek-V3": "DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3-0324": "DeepSeek-V3",
    "deepseek-ai/DeepSeek-R1": "DeepSeek-V3",
    "DeepSeek-R1": "DeepSeek-V3",
}
"""Other names of the configurations, and checkpoints that hold something else besides."""


def known_configs() -> dict[str, Path]:
    """Folders that hold the known configurations, by name."""
    return {path.parent.name: path.parent for path in sorted(_FOLDER.glob("*/config.json"))}


def known_name(text: str) -> str | None:
    """The configuration's own name for a name or hub id in any case; None if it is not known."""
    names = {name.casefold(): name for name in known_configs()}
    names |= {other.casefold(): name for other, name in (HUB_IDS | _ALIASES).items()}
    return names.get(text.casefold())


def configs_like(text: str) -> list[str]:
    """The configurations whose names begin as the text does, by its letters; else all."""
    family = _family(text.rpartition("/")[2])
    return [name for name in known_configs() if _family(name) == family] or list(known_configs())


def _family(name: str) -> str:
    letters = re.match(r"[a-z]*", name.casefold())
    return "" if letters is None else letters[0]
