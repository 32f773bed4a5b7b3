"""AWQ against a naive computation of the paper's search, on inputs that are all kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.precisions.layer_weights import held_weight
from qbench.precisions.verification import linear_layers
from tests.precisions.calibrated import LLAMA, OPTIONS, calibration, naive_inputs
from tests.precisions.naive_integers import quantize

if TYPE_CHECKING:
    from tests.precisions.tiny_cells import TinyCells

GROUP = 16
AWQ = {"bits": 4, "granularity": "group", "group": GROUP, "weights": "awq", **OPTIONS}
SHARING = (["q_proj", "k_proj", "v_proj"], ["o_proj"])


def rounded(weight: np.ndarray, mapping: str) -> np.ndarray:
    codes, scales, zeros = quantize(weight.astype(np.float32), 4, mapping, (1, GROUP))
    repeated = (np.repeat(one.astype(np.float64), GROUP, axis=1) for one in (scales, zeros))
    scale, zero = repeated
    return np.asarray((codes - zero) * scale)


def naive_search(
    weights: list[np.ndarray], inputs: np.ndarray, mapping: str
) -> tuple[float, np.ndarray]:
    """The exponent and what the weights' columns are multiplied by."""
    sizes = np.abs(inputs).mean(axis=0)
    tried = []
    for step in range(20):
        larger = np.maximum(sizes ** (step / 20), 1e-4)
        larger = larger / np.sqrt(larger.max() * larger.min())
        error = sum(
            np.square(
                (inputs / larger) @ rounded(weight * larger, mapping).T - inputs @ weight.T
            ).sum()
            for weight in weights
        )
        tried.append((error, step / 20, larger))
    _, exponent, larger = min(tried, key=lambda one: one[0])
    return exponent, larger


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_factors_and_codes_equal_the_naive_search(mapping: str, cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "integer", **AWQ, mapping=mapping, clipping=False)
    held = dict(linear_layers(loaded.model))
    original = dict(linear_layers(cells.load(LLAMA, "fp32").model))
    inputs = naive_inputs(cells)
    about = calibration(loaded)["layers"]
    for parts in SHARING:  # of the first block, whose inputs nothing before it has changed
        names = [f"model.layers.0.self_attn.{part}" for part in parts]
        weights = [original[name].weight.numpy().astype(np.float64) for name in names]
        seen = inputs[names[0]].astype(np.float64)
        exponent, larger = naive_search(weights, seen, mapping)
        for name, weight in zip(names, weights, strict=True):
            assert about[name]["exponent"] == exponent
            found = held[name].weight
            np.testing.assert_allclose(1 / found.act_pre_scale.numpy(), larger, rtol=1e-4)
            expected = rounded(weight * larger, mapping) / larger
            # The largest of a symmetric group is midway between two levels.
            near = np.isclose(held_weight(held[name]).numpy(), expected, rtol=1e-4, atol=1e-6)
            assert near.mean() > 0.99
            off = seen @ (held_weight(held[name]).numpy() - weight).T
            error = np.linalg.norm(off) / np.linalg.norm(seen @ weight.T)
            assert about[name]["output_error"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_a_layer_by_itself_has_the_factors_that_torchao_finds(
    mapping: str, cells: TinyCells
) -> None:
    import torch
    from torchao.prototype.awq.core import AWQObserver
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerGroup

    loaded = cells.load(LLAMA, "integer", **AWQ, mapping=mapping, clipping=False)
    name = "model.layers.0.self_attn.o_proj"
    original = dict(linear_layers(cells.load(LLAMA, "fp32").model))[name]
    observer = AWQObserver(
        original.weight.data,
        None,
        IntxWeightOnlyConfig(
            weight_dtype=torch.int4,
            granularity=PerGroup(GROUP),
            mapping_type=MappingType[mapping.upper()],
        ),
    )
    observer(torch.from_numpy(naive_inputs(cells)[name]), torch.empty(0))
    found = dict(linear_layers(loaded.model))[name].weight.act_pre_scale
    torch.testing.assert_close(1 / found, observer.calculate_qparams(), rtol=1e-4, atol=0)


def test_outputs_err_less_than_of_nearest_levels(cells: TinyCells) -> None:
    layers = calibration(cells.load(LLAMA, "integer", **AWQ, mapping="asymmetric"))["layers"]
    assert len(layers) == 14
    names = [name for name in layers if name.endswith(("o_proj", "down_proj"))]
    assert all(
        layers[name]["output_error"] <= layers[name]["output_error_nearest"] * (1 + 1e-6)
        for name in names
    )
    errors: dict[str, Any] = {
        part: np.median([found[part] for found in layers.values()])
        for part in ("output_error", "output_error_nearest")
    }
    assert errors["output_error"] < 0.97 * errors["output_error_nearest"]


def test_clipping_lowers_the_error_and_leaves_queries_and_keys(cells: TinyCells) -> None:
    plain, clipped = (
        cells.load(LLAMA, "integer", **AWQ, mapping="asymmetric", clipping=one)
        for one in (False, True)
    )
    before, after = (calibration(one)["layers"] for one in (plain, clipped))
    first = [name for name in before if name.startswith("model.layers.0.self_attn")]
    for name in first[:3]:
        assert after[name]["exponent"] == before[name]["exponent"]
        assert after[name]["output_error"] <= before[name]["output_error"]
        if name.endswith(("q_proj", "k_proj")):
            assert after[name] == before[name]
    (value,) = (name for name in first if name.endswith("v_proj"))
    assert after[value]["output_error"] < before[value]["output_error"]


def test_the_factors_are_counted_with_the_codes(cells: TinyCells) -> None:
    """A number of the type of the rest for each input of a layer."""
    loaded = cells.load(LLAMA, "integer", **AWQ, mapping="symmetric")
    plain = cells.load(LLAMA, "integer", bits=4, granularity="group", group=GROUP, dtype="fp32")
    assert loaded.predicted is not None
    assert plain.predicted is not None
    inputs = sum(layer.in_features for _, layer in linear_layers(loaded.model))
    more = loaded.predicted.quantization_state - plain.predicted.quantization_state
    assert more == 4 * inputs
    details = loaded.verification.details, plain.verification.details
    nominal = [one["nominal_linear_bytes"] for one in details]
    assert nominal[0] - nominal[1] == 4 * inputs
