"""Which tensor is taken, as what, and what is said where none can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.core.errors import ModelError, UsageError
from qbench.precisions.explain.weights import read_weight
from tests.precisions.explain.checkpoints import NAME, random_weight, save
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("architecture", "name", "shape"),
    [
        ("llama", "model.layers.0.mlp.down_proj.weight", (64, 128)),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight", (128, 64)),  # (in, out) in the file
        ("opt", "model.decoder.layers.0.fc1.weight", (128, 64)),
    ],
)
def test_the_first_weight_of_an_mlp_is_taken(
    tmp_path: Path, architecture: str, name: str, shape: tuple[int, int]
) -> None:
    make_tiny_model(tmp_path / "model", architecture, layers=11)
    weight = read_weight("model", None, base=tmp_path)
    assert (weight.name, tuple(weight.values.shape), weight.linear) == (name, shape, True)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "model.layers.0.mlp.gate_proj.weight"),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight"),
        ("opt", "model.decoder.layers.0.fc1.weight"),
    ],
)
def test_without_a_name_a_weight_of_whole_groups_is_taken(
    tmp_path: Path, architecture: str, name: str
) -> None:
    make_tiny_model(tmp_path / "model", architecture, hidden=48, intermediate=104)
    weight = read_weight("model", None, base=tmp_path, group=16)
    assert (weight.name, weight.values.shape[1]) == (name, 48)
    assert read_weight("model", None, base=tmp_path, group=13).values.shape[1] == 104
    assert read_weight("model", None, base=tmp_path, group=7).linear  # none: the caller refuses it


def test_a_norm_is_taken_as_one_row_that_no_linear_layer_has(tiny_model: Path) -> None:
    weight = read_weight(str(tiny_model), "model.norm.weight", base=tiny_model)
    assert (tuple(weight.values.shape), weight.linear) == ((1, 64), False)


def test_a_weight_of_typical_size_is_chosen(tmp_path: Path) -> None:
    values = random_weight()
    weight = read_weight(str(save(tmp_path / "model", values)), NAME, base=tmp_path)
    row, column = weight.typical()
    size = np.sqrt((values.astype(np.float64) ** 2).mean())
    assert weight.rms == pytest.approx(size, rel=1e-12)
    assert abs(values[row, column]) == pytest.approx(size, rel=1e-3)


def test_half_precision_files_are_read_exactly(tmp_path: Path) -> None:
    values = random_weight().astype(np.float16)
    weight = read_weight(str(save(tmp_path / "model", values)), None, base=tmp_path)
    assert weight.stored == "fp16"
    assert (weight.values.numpy() == values.astype(np.float32)).all()


def test_an_unknown_tensor_names_the_nearest(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        read_weight(str(tiny_model), "model.layers.1.mlp.upproj.weight", base=tiny_model)


def test_a_tensor_that_is_no_number_is_refused(tmp_path: Path) -> None:
    values = random_weight()
    values[0, 0] = np.nan
    with pytest.raises(UsageError, match="holds 1 infinite or not-a-number values"):
        read_weight(str(save(tmp_path / "nan", values)), None, base=tmp_path)


def test_integers_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "whole", np.ones((4, 4), dtype=np.int32))
    with pytest.raises(UsageError, match=r"is I32 of shape \[4, 4\]; expected weights in F32"):
        read_weight(str(folder), NAME, base=tmp_path)
    with pytest.raises(UsageError, match="found no weight of a linear layer"):
        read_weight(str(folder), None, base=tmp_path)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("./nowhere", "no such folder"),
        ("owner/unknown", "not downloaded"),
        ("bundled:tiny", "no bundled model of that name"),
        ("random:Llama-2-7B", "random weights"),
    ],
)
def test_a_model_without_weights_is_refused(tmp_path: Path, model: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_weight(model, None, base=tmp_path)
