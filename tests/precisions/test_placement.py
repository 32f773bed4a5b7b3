"""`device_map: auto`: laid over all GPUs, on the CPU where there are none, never offloaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.errors import OutOfMemoryError
from qbench.precisions.placement import check_placement, device_of, refusing_offload
from qbench.running.loading import load
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import load_fresh, make_job
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4-dq"])
@pytest.mark.parametrize("prefix", ["", "random:"])
def test_on_one_device_it_is_the_same_model_and_says_where_it_lies(
    prefix: str, precision: str, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "model", "llama")
    found = {}
    for device_map in ("auto", None):
        ref = parse_model(f"{prefix}{folder}", base=tmp_path, device_map=device_map)
        loaded = load(make_job(resolve_model(ref), precision), lambda phase: None)
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([[1, 2, 3]])).logits
        found[device_map] = logits
        placement = loaded.verification.details.get("placement")
        if device_map is None:
            assert placement is None
            continue
        assert loaded.predicted is not None
        assert placement == {
            "modules": {"all": "cpu"},
            "static_bytes": {"cpu": loaded.predicted.total},
        }
    assert torch.equal(found["auto"], found[None])


def test_a_part_that_was_offloaded_is_refused() -> None:
    model: Any = SimpleNamespace(hf_device_map={"model.layers.0": 0, "model.layers.1": "cpu"})
    with pytest.raises(OutOfMemoryError, match=r"model\.layers\.1 would be offloaded"):
        check_placement(model)
    model.hf_device_map = {"": "cpu"}
    check_placement(model)


@pytest.mark.parametrize(
    "words",
    ["Some modules are dispatched on the CPU or the disk. Make sure", "Please give offload_folder"],
)
def test_what_a_library_refuses_to_offload_is_out_of_memory(words: str) -> None:
    with pytest.raises(OutOfMemoryError, match="does not fit on"), refusing_offload("auto"):
        raise ValueError(words)
    with pytest.raises(ValueError, match="another thing"), refusing_offload("auto"):
        raise ValueError("another thing")


def test_a_parameter_lies_where_the_longest_name_above_it_does() -> None:
    placement = {"model.layers.0": "cpu", "model.layers.0.mlp": "meta", "lm_head": "meta"}
    assert device_of("model.layers.0.self_attn.q_proj.weight", placement).type == "cpu"
    assert device_of("model.layers.0.mlp.up_proj.weight", placement).type == "meta"
    assert device_of("anything", {"": "cpu"}).type == "cpu"


def test_without_it_the_record_says_nothing_of_places(tmp_path: Path) -> None:
    loaded = load_fresh(make_tiny_model(tmp_path / "model", "gpt2"), "bf16")
    assert "placement" not in loaded.verification.details
