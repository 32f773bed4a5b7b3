"""Model folders with anything anywhere in what planning reads of them: planned, or refused."""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.fuzz.conftest import of_usual
from tests.fuzz.mutations import mutated, paths
from tests.fuzz.places import check, place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SUITE = """\
models: [./model]
precisions: [fp32, nf4, int4-g32]
measure: {footprint: , memory: {prompt_tokens: 8, new_tokens: 2}, weight_error: }
finetune: {methods: [{method: lora, rank: 4, target: all-linear}], data: {train: 4}}
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 64,
}
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
READ = ("config.json", "generation_config.json", "tokenizer_config.json", INDEX)


def _shapes() -> dict[str, list[int]]:
    shapes = {"model.embed_tokens.weight": [64, 32], "lm_head.weight": [64, 32]}
    for layer in range(2):
        place = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{place}.self_attn.{name}_proj.weight"] = [32, 32]
        shapes |= {f"{place}.mlp.{name}_proj.weight": [64, 32] for name in ("gate", "up")}
        shapes[f"{place}.mlp.down_proj.weight"] = [32, 64]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{place}.{name}.weight"] = [32]
    return shapes | {"model.norm.weight": [32]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder; its index, which a single file needs not, names that file."""
    folder = tmp_path_factory.mktemp("model")
    shapes = _shapes()
    save_file(
        {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, folder / WEIGHTS
    )
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(shapes, WEIGHTS)}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_the_model_is_good(model: Path) -> None:
    with place() as folder:
        shutil.copytree(model, folder / "model")
        (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
        finished = check(folder, "plan", "suite.yaml")
        assert finished.code == 0, finished.errors


def _header(folder: Path) -> dict[str, Any]:
    contents = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header: dict[str, Any] = json.loads(contents[8 : 8 + length])
    return header


def plan_with(model: Path, name: str, contents: bytes) -> None:
    with place() as folder:
        shutil.copytree(model, folder / "model")
        (folder / "model" / name).write_bytes(contents)
        (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
        check(folder, "plan", "suite.yaml")
        check(folder, "fit", "./model", "--gpu", "t4", "--length", "64")


@of_usual(0.5)
@given(data=st.data(), name=st.sampled_from(READ[:1] * 4 + READ))
def test_configurations(model: Path, data: st.DataObject, name: str) -> None:
    path = model / name
    good = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"a": 1}
    made = data.draw(mutated(good, list(paths(good)))).value
    plan_with(model, name, json.dumps(made).encode())


@of_usual(1)
@given(data=st.data())
def test_headers_of_weights(model: Path, data: st.DataObject) -> None:
    good = _header(model)
    header = json.dumps(data.draw(mutated(good, list(paths(good)))).value).encode()
    old = (model / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", old[:8])
    wrong = data.draw(st.sampled_from([0, 0, 0, 1, -1, 2**40, 2**63]))
    stated = (len(header) + wrong) % 2**64
    plan_with(model, WEIGHTS, struct.pack("<Q", stated) + header + old[8 + length :])


@of_usual(0.5)
@given(name=st.sampled_from((*READ, WEIGHTS)), contents=st.binary(max_size=60))
def test_any_bytes(model: Path, name: str, contents: bytes) -> None:
    plan_with(model, name, contents)
