"""Shapes by arithmetic equal those that transformers builds and loads, for every architecture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.spec import ResolvedModel, TensorShape
from qbench.precisions.storage import static_bytes
from qbench.sources.models.headers import read_headers, weight_files
from qbench.sources.models.resolve import parse_model, resolve_model
from qbench.sources.shapes.architectures import ARCHITECTURES
from qbench.sources.shapes.from_config import shape_from_config
from qbench.sources.shapes.meta import describe
from qbench.sources.shapes.shapes import shape_from_headers
from tests.tiny_configs import tiny_config

if TYPE_CHECKING:
    from pathlib import Path

_BY_CONFIG = sorted(set(ARCHITECTURES) - {"gpt2", "opt"})
_STACKED = ("mixtral", "qwen3_moe", "deepseek_v3")
"""Those whose checkpoints hold each expert by itself."""
_VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
}
_OF_ONE: dict[str, list[dict[str, Any]]] = {
    "qwen3_moe": [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}],
    "deepseek_v3": [{"q_lora_rank": None}, {"first_k_dense_replace": 0}],
    "gemma3_text": [{"num_hidden_layers": 2}, {"layer_types": ["full_attention"] * 6}],
    "mixtral": [{"head_dim": 20}],
    "phi3": [{"num_key_value_heads": None}],
    "gpt_oss": [{"attention_bias": False}],
}
_CASES = [
    (name, change)
    for name in _BY_CONFIG
    for change in (*_VARIANTS.values(), *_OF_ONE.get(name, ()))
]


@pytest.mark.parametrize(("architecture", "change"), _CASES)
def test_as_transformers_builds_it(
    tmp_path: Path, architecture: str, change: dict[str, Any]
) -> None:
    config = {**tiny_config(architecture), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = shape_from_config(config, "here")
    assert found is not None
    told = [TensorShape.model_validate(one) for one in describe(str(tmp_path))]
    assert {tensor.name: tensor for tensor in found.tensors} == {one.name: one for one in told}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", _BY_CONFIG)
def test_bytes_are_those_of_the_loaded_model(tmp_path: Path, architecture: str, dtype: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_config(architecture)))
    made.save_pretrained(tmp_path)
    model = resolve_model(parse_model(str(tmp_path), base=tmp_path))
    assert isinstance(model, ResolvedModel)
    assert model.shape is not None
    assert model.shape.origin == ("config" if architecture in _STACKED else "header")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*loaded.parameters(), *loaded.buffers())
    }
    item_bytes = 4 if dtype == "float32" else 2
    assert static_bytes(model.shape, item_bytes, linear=None).total == sum(held.values())


@pytest.mark.parametrize("architecture", sorted(set(_BY_CONFIG) - set(_STACKED)))
def test_as_the_header_of_the_checkpoint(tmp_path: Path, architecture: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_config(architecture)))
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    by_header = shape_from_headers(read_headers(weight_files(tmp_path)), config, "here")
    by_config = shape_from_config(config, "here")
    assert by_header is not None
    assert by_config is not None
    assert by_header.tensors == by_config.tensors
