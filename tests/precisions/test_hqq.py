"""HQQ: what its codes are by definition, what its solver makes small, bytes, training on it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import ModelError
from qbench.finetune import methods
from qbench.precisions import precisions, with_defaults
from qbench.precisions.hqq.layers import layer_class, naive_weight, quantized_layer
from qbench.precisions.hqq.options import Bits, FreeHqqOptions, HqqOptions, layer_bytes
from qbench.sources.bundled import bundled_models
from tests.precisions.tiny_cells import load_fresh, resolve, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace

WIDTHS: list[Bits] = [8, 4, 3, 2, 1]
NORM = 0.7
"""Of HQQ's objective."""


def layer_of(weights: torch.Tensor, bits: Bits, **options: Any) -> Any:
    plain = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    plain.weight.data = weights.clone()
    return quantized_layer(plain, HqqOptions(**options), bits, torch.float32)


def weights_of(outputs: int, inputs: int) -> torch.Tensor:
    """As of a trained layer: normal, with some far out."""
    made = torch.Generator().manual_seed(outputs * inputs)
    weights = torch.randn(outputs, inputs, generator=made) * 0.02
    far = torch.rand(outputs, inputs, generator=made) < 0.003
    return torch.where(far, weights * 8, weights)


def unpacked(layer: Any, bits: int) -> np.ndarray[Any, Any]:
    """The codes as a matrix (rows, columns), taken out of each word bit by bit."""
    words = layer.weight.data.numpy().astype(np.int64)
    of_word = 10 if bits == 3 else 8 // bits
    rows = []
    for place in range(of_word):
        low = bits * (of_word - 1 - place)
        for row in words:
            taken = [[(int(word) >> (low + bit)) & 1 for bit in range(bits)] for word in row]
            rows.append([sum(one << bit for bit, one in enumerate(word)) for word in taken])
    return np.array(rows)


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("bits", WIDTHS)
def test_weights_are_those_of_codes_taken_out_bit_by_bit(bits: Bits, axis: int) -> None:
    weights = weights_of(24, 48)
    layer = layer_of(weights, bits, group=16, axis=axis)
    groups = weights.numel() // 16
    codes = unpacked(layer, bits)[: groups if axis == 1 else 16]
    assert codes.max() <= 2**bits - 1
    expected = (codes - layer.zero.numpy().astype(float)) * layer.scale.numpy()
    found = naive_weight(layer, slice(0, 24)).numpy()
    np.testing.assert_allclose(found, expected.reshape(24, 48), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(naive_weight(layer, slice(8, 16)).numpy(), found[8:16])
    np.testing.assert_allclose(layer.dequantize().numpy(), found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("bits", [4, 3, 2])
def test_its_objective_is_lower_than_that_of_nearest_levels(bits: Bits, axis: int) -> None:
    """In the same format: as many bits, the same groups, scales of the extremes."""
    from safetensors.torch import load_file

    stored = load_file(bundled_models()["tiny-mistral"] / "model.safetensors")
    real = [one.float() for name, one in stored.items() if name.endswith("_proj.weight")]
    for weights in (weights_of(128, 256), *real):
        norms = []
        for optimize in (True, False):
            layer = layer_of(weights, bits, axis=axis, optimize=optimize)
            error = naive_weight(layer, slice(0, weights.shape[0])) - weights
            norms.append(float(error.abs().double().pow(NORM).sum()))
        assert norms[0] < 0.995 * norms[1]


@pytest.mark.parametrize(
    ("bits", "bits_a_weight"), [(8, 8.5), (4, 4.5), (3, 3.2 + 0.5), (2, 2.5), (1, 1.5)]
)
def test_bits_a_weight_of_a_large_layer(bits: Bits, bits_a_weight: float) -> None:
    """Ten codes of 3 bits fill an int32; a scale and a zero point of 16 bits belong to 64."""
    for axis in (0, 1):
        found = layer_bytes(HqqOptions(axis=axis), bits, 4096, 14336, 2)
        assert found is not None
        # Of axis 0 the 64 rows of codes are filled up to 70.
        filled = 70 / 64 if (bits, axis) == (3, 0) else 1.0
        expected = (bits_a_weight - 0.5) * filled + 0.5
        assert 8 * sum(found) / (4096 * 14336) == pytest.approx(expected, rel=1e-4)


def test_layers_that_groups_do_not_fill_stay_as_they_are(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama", intermediate=72, tokenizer=False)
    loaded = load_fresh(folder, "hqq", bits=2, group=256, dtype="fp32")
    details = loaded.verification.details
    assert loaded.verification.faults == ()
    assert details["quantized_modules"] == 8
    assert all("mlp" in name for name in details["left_out"][:-1])
    shape = loaded.resolved.shape
    assert shape is not None
    options = typed_options_of("hqq", bits=2, group=256, dtype="fp32")
    assert loaded.predicted == precisions()["hqq"].storage(shape, options)
    none_fits = FreeHqqOptions(group=2**15)
    words = precisions()["hqq"].misfit(none_fits, resolve(folder))
    assert words is not None
    assert "choose a smaller `group`" in words
    with pytest.raises(ModelError, match="smaller `group`"):
        precisions()["hqq"].load(Checkpoint(folder, "cpu"), none_fits)


def test_codes_of_another_width_are_a_fault(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama", layers=1, tokenizer=False)
    model = precisions()["hqq4"].load(Checkpoint(folder, "cpu"), HqqOptions())
    found = precisions()["hqq3"].verify(model, HqqOptions())
    assert len(found.faults) == 7
    assert "'nbits': 4" in found.faults[0]
    layer: Any = next(one for one in model.modules() if isinstance(one, layer_class()))
    layer.meta["nbits"] = 2
    found = precisions()["hqq4"].verify(model, HqqOptions())
    assert len(found.faults) == 1


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_pass_as_through_the_weights_that_codes_stand_for(dtype: str) -> None:
    weights = weights_of(32, 64)
    layer = layer_of(weights, 4)
    kind = getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype])
    given = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
        made = layer(given)
    assert made.dtype == kind
    made.float().pow(2).sum().backward()
    found, given.grad = given.grad, None
    (given @ naive_weight(layer, slice(0, 32)).T).pow(2).sum().backward()
    assert found is not None
    assert given.grad is not None
    assert float((found - given.grad).norm() / given.grad.norm()) < (1e-5, 2e-2)[dtype == "bf16"]
    assert layer.weight.grad is None


def test_what_trains_on_it() -> None:
    held, lora = with_defaults("hqq4"), methods()["lora"]
    assert lora.conflicts(held, lora.options()) is None
    refused = lora.conflicts(held, lora.options(dora=True))
    assert refused is not None
    assert "hqq4" in refused
    assert "merged-dequantized" in lora.deployments(held)
    assert "merged-in-place" not in lora.deployments(held)


def test_it_is_explained_and_planned_with_what_of_it_is_not_real(workplace: Workplace) -> None:
    explained = workplace.call_here("explain", "hqq3", "--set", "axis=0", "--format", "json")
    assert explained.code == 0, explained.errors
    told = json.loads(explained.output)
    assert told["options"] == {"group": 64, "axis": 0, "optimize": True, "dtype": "bf16"}
    assert math.isclose(told["bits_per_weight"]["stored"], 3 * 70 / 60 + 0.5, rel_tol=0.05)
    words = precisions()["hqq4"].unlike_served(HqqOptions(), "cuda")
    assert words is not None
    assert "gemlite" in words
