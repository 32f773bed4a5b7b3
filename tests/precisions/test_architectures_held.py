"""Bytes of other architectures in quantized precisions: the arithmetic against what is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qbench.precisions.inventory import inventory
from qbench.predict.static import predicted_bytes
from qbench.running.loading import load
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import make_job
from tests.tiny_configs import tiny_config

if TYPE_CHECKING:
    from pathlib import Path

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "head_dim": 32,
}
_OWN: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        "head_dim": None,
        "kv_lora_rank": 64,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 32,
        "v_head_dim": 64,
    },
    "qwen3_moe": {"moe_intermediate_size": 64},
}
_ARCHITECTURES = (
    *("qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3"),
    *("gemma3_text", "gemma2", "phi3", "olmo2", "smollm3"),
)


@pytest.fixture(scope="module", params=_ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as its checkpoint is saved: of a mixture each expert by itself."""
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture: str = request.param
    stated = {**tiny_config(architecture), **_SIZES, **_OWN.get(architecture, {})}
    config = {name: value for name, value in stated.items() if value is not None}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    folder = tmp_path_factory.mktemp(architecture)
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4-dq", "int4-g32"])
def test_what_is_held_is_what_is_counted(folder: Path, precision: str) -> None:
    model = resolve_model(parse_model(str(folder), base=folder))
    job = make_job(model, precision)
    loaded = load(job, lambda _phase: None)
    held = {
        one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes()
        for one in inventory(loaded.model)
    }
    predicted = predicted_bytes(job.cell, model)
    assert predicted is not None
    assert predicted.total == sum(held.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("architecture", ["gpt_oss", "deepseek_v3"])
def test_random_weights_are_held_as_a_checkpoint_is(
    tmp_path: Path, architecture: str, precision: str
) -> None:
    """A router's corrections stay in fp32, and in fp16 the norms of gpt-oss do."""
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(architecture)))
    model = resolve_model(parse_model(f"random:{tmp_path}", base=tmp_path))
    job = make_job(model, precision)
    loaded = load(job, lambda _phase: None)
    predicted = predicted_bytes(job.cell, model)
    assert predicted is not None
    assert predicted.total == sum(one.tensor.nbytes for one in inventory(loaded.model))
