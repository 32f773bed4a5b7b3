"""Full tuning: all weights, in the type of the master weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qbench.finetune.artifact import artifact_folder, read_artifact
from qbench.precisions.inventory import logical_weights
from tests.finetune.trainings import KEY, train
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

LIKE_A_LARGE_MODEL = 1e-5
"""A learning rate whose updates are small beside the weights."""


def test_trains_every_weight(base: Path) -> None:
    before = load_fresh(base, "fp32").model
    done = train(base, "full")
    assert done.training.trained_weights == logical_weights(before)
    unchanged = [
        name
        for name, weight in before.named_parameters()
        if torch.equal(weight, done.weights[name])
    ]
    assert not unchanged


def test_a_tied_head_is_trained_once(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tied", "qwen2", tied=True)
    done = train(folder, "full", steps=2)
    assert done.training.trained_weights == logical_weights(load_fresh(folder, "fp32").model)
    saved = AutoModelForCausalLM.from_pretrained(artifact_folder(KEY))
    assert torch.equal(saved.lm_head.weight, done.loaded.model.lm_head.weight)


def test_transformers_loads_it_in_the_masters_type(base: Path) -> None:
    done = train(base, "full")
    saved = AutoModelForCausalLM.from_pretrained(artifact_folder(KEY))
    for name, weight in saved.named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, done.weights[name])
    assert read_artifact(KEY).method == "full"
    tokenizer = AutoTokenizer.from_pretrained(artifact_folder(KEY))
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    files = list(artifact_folder(KEY).glob("*.safetensors"))
    assert done.training.saved_bytes == sum(path.stat().st_size for path in files)


def test_pure_bf16_loses_small_updates(base: Path) -> None:
    changed = {}
    for master in ("fp32", "bf16"):
        before = dict(load_fresh(base, master).model.named_parameters())
        done = train(
            base, "full", master, master_weights=master, learning_rate=LIKE_A_LARGE_MODEL, steps=2
        )
        assert all(weight.dtype == before[name].dtype for name, weight in done.weights.items())
        moved = [(before[name] != weight).float().mean() for name, weight in done.weights.items()]
        changed[master] = float(torch.stack(moved).mean())
    assert changed["fp32"] > 0.9
    assert changed["bf16"] < 0.2
