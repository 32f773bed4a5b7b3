"""The error of each layer's weights against a computation from the checkpoint in numpy."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

import pytest

from qbench.measures.weight_error import WEIGHT_ERROR, WeightErrorOptions
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from qbench.measures.loaded import LoadedModel, Outcome

VARIANTS = [Variant("llama", "llama"), Variant("gpt2", "gpt2"), Variant("opt", "opt")]


def measure(loaded: LoadedModel) -> Outcome:
    from pathlib import Path

    [item] = WEIGHT_ERROR.items(WeightErrorOptions(), loaded.resolved, Path())
    return WEIGHT_ERROR.measure(loaded, item)


def bf16(values: np.ndarray) -> np.ndarray:
    import torch

    return torch.from_numpy(values).bfloat16().float().numpy()


def linear_weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    return {
        name.removesuffix(".weight"): values
        for name, values in tensors.items()
        if values.ndim == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
    }


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_bf16_rounds_every_layer(cells: TinyCells, variant: Variant) -> None:
    outcome = measure(cells.load(variant, "bf16"))
    weights = linear_weights(cells.folder(variant))
    noise = sum(float(((bf16(w) - w).astype(float) ** 2).sum()) for w in weights.values())
    signal = sum(float((w.astype(float) ** 2).sum()) for w in weights.values())
    found = {metric.name: metric.value for metric in outcome.metrics}
    assert found["weight_error.relative"] == pytest.approx(math.sqrt(noise / signal), rel=1e-6)
    assert found["weight_error.snr"] == pytest.approx(10 * math.log10(signal / noise), rel=1e-6)
    layers = outcome.details["layers"]
    assert {layer["name"].split(".", 1)[1] for layer in layers} == {
        name.split(".", 1)[1] for name in weights
    }
    errors = [layer["relative_error"] for layer in layers]
    assert errors == sorted(errors, reverse=True)
    assert found["weight_error.worst"] == errors[0]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_the_formats_stand_in_their_order(cells: TinyCells, variant: Variant) -> None:
    errors = {
        precision: measure(cells.load(variant, precision)).metrics[0].value
        for precision in ("fp32", "fp16", "bf16", "int8", "nf4", "fp4")
    }
    assert errors["fp32"] == 0.0
    ordered = [errors[name] for name in ("fp16", "bf16", "int8", "nf4", "fp4")]
    assert ordered == sorted(ordered)
    assert 0.07 < ordered[3] < 0.11


def test_without_error_there_is_no_ratio(cells: TinyCells) -> None:
    outcome = measure(cells.load(VARIANTS[0], "fp32"))
    [snr] = [metric for metric in outcome.metrics if metric.name == "weight_error.snr"]
    assert snr.value is None
    assert snr.reason == "there is no error: the weights equal the checkpoint's"


def test_files_that_are_not_loaded_do_not_count(cells: TinyCells, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(cells.folder(VARIANTS[0]), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    others = {name: values + 1 for name, values in tensors.items()}
    save_file(others, folder / "optimizer.safetensors", metadata={"format": "pt"})
    outcome = measure(load_fresh(folder, "fp32"))
    assert {metric.name: metric.value for metric in outcome.metrics} == {
        "weight_error.relative": 0.0,
        "weight_error.snr": None,
        "weight_error.worst": 0.0,
    }
