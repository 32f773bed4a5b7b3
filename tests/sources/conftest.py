"""A cache of its own for every test, and models that tests share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Variant:
    """A model that the shape tests look at."""

    label: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)


VARIANTS = [
    Variant(f"{architecture}-{'tied' if tied else 'untied'}", architecture, {"tied": tied})
    for architecture in ("llama", "mistral", "qwen2", "qwen3", "gpt2", "opt")
    for tied in (True, False)
] + [
    Variant("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Variant("llama-wide-heads", "llama", {"head_dim": 24, "hidden": 96, "intermediate": 172}),
    Variant("llama-one-kv-head", "llama", {"kv_heads": 1, "layers": 3}),
    Variant("llama-scaled", "llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }}),
    Variant("mistral-odd", "mistral", {"hidden": 96, "intermediate": 176, "dtype": "bfloat16"}),
    Variant("qwen2-tied-sharded", "qwen2", {"tied": True, "max_shard_size": "60KB"}),
    Variant("gpt2-odd", "gpt2", {"hidden": 96, "intermediate": 200, "layers": 3}),
    Variant("opt-projected", "opt", {"word_embed_proj_dim": 32}),
    Variant("opt-post-norm", "opt", {"tied": True, "do_layer_norm_before": False}),
    Variant("opt-no-bias", "opt", {"enable_bias": False}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session", params=VARIANTS, ids=lambda variant: variant.label)
def variant_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of one of the variants; tests must not change it."""
    variant: Variant = request.param
    folder = tmp_path_factory.mktemp(variant.label)
    return make_tiny_model(folder, variant.architecture, **variant.options)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied llama with its tokenizer; tests must not change it."""
    return make_tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def tied_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied llama with its tokenizer; tests must not change it."""
    return make_tiny_model(tmp_path_factory.mktemp("tied"), "llama", tied=True)
