"""What a loaded layer holds and computes, against numpy on the checkpoint's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.precisions.bnb4bit import naive_weight
from qbench.precisions.verification import linear_layers
from tests.precisions.numpy_formats import (
    LEVELS,
    blocks,
    four_bit,
    int8_rows,
    nested_bound,
    rounded,
)
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from qbench.measures.loaded import LoadedModel

VARIANTS = [
    Variant("llama-nested", "llama", {"hidden": 128, "intermediate": 320, "layers": 1}),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
    Variant("mistral-bf16-file", "mistral", {"dtype": "bfloat16"}),
]
EXACT = {"compute_dtype": "fp32", "dtype": "fp32"}


def checkpoint_weight(folder: Path, layer: str) -> NDArray[np.float32]:
    """The layer's weight as the file has it, (out, in), in fp32."""
    import torch
    from safetensors.torch import load_file

    weight = load_file(folder / "model.safetensors")[f"{layer}.weight"].to(torch.float32).numpy()
    is_conv1d = layer.startswith("transformer.h.")
    return np.ascontiguousarray(weight.T if is_conv1d else weight)


def computed_weight(layer: Any) -> NDArray[np.float64]:
    """The weight (out, in) that the layer really multiplies with: its outputs for unit vectors."""
    import torch

    with torch.inference_mode():
        outputs = layer(torch.eye(layer.in_features))
        if layer.bias is not None:
            outputs = outputs - layer.bias
    found: NDArray[np.float64] = outputs.T.double().numpy()
    return found


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.label)
def variant(request: pytest.FixtureRequest) -> Variant:
    chosen: Variant = request.param
    return chosen


def weights_of(
    loaded: LoadedModel, folder: Path, dtype: str
) -> list[tuple[Any, NDArray[np.float32]]]:
    """Each quantized layer with the checkpoint's weight, rounded to the type it is loaded in."""
    layers = linear_layers(loaded.model)
    assert layers
    return [
        (layer, rounded(checkpoint_weight(folder, name), dtype))
        for name, layer in layers
        if name != "lm_head"
    ]


def assert_nearest(
    found: NDArray[np.float64], naive: NDArray[np.float64], original: NDArray[np.float32]
) -> None:
    """Equal to rounding; where two levels are equally near, either will do."""
    rounding = 1e-6 * np.abs(original).max()
    distance = np.abs(found - original) - np.abs(naive - original)
    assert np.abs(distance).max() <= rounding
    assert np.mean(np.abs(found - naive) > rounding) < 1e-2


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_four_bit_layers_compute_with_the_nearest_levels(
    name: str, variant: Variant, cells: TinyCells
) -> None:
    loaded = cells.load(variant, name, **EXACT)
    for layer, original in weights_of(loaded, cells.folder(variant), "fp32"):
        found = computed_weight(layer)
        assert_nearest(found, four_bit(original, name), original)
        scaled = blocks(found.astype(np.float32))
        scaled = scaled / np.abs(blocks(original)).max(axis=1, keepdims=True)
        off = np.abs(scaled[:, :, None] - np.array(LEVELS[name])).min(axis=2)
        assert off.max() < 1e-6


@pytest.mark.parametrize("name", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_checkpoint_is_rounded_to_the_loading_type_first(
    name: str, dtype: str, cells: TinyCells
) -> None:
    variant = VARIANTS[0]
    loaded = cells.load(variant, name, compute_dtype=dtype)
    for layer, original in weights_of(loaded, cells.folder(variant), dtype):
        found = naive_weight(layer).double().numpy()
        assert_nearest(found, four_bit(original, name), original)


def test_double_quantization_moves_block_maxima_within_its_error(
    variant: Variant, cells: TinyCells
) -> None:
    loaded = cells.load(variant, "nf4-dq", **EXACT)
    for layer, original in weights_of(loaded, cells.folder(variant), "fp32"):
        naive = four_bit(original, "nf4-dq")
        moved = np.abs(computed_weight(layer) - naive)
        # The largest of a block is level 1: it moves by all that the block's maximum moves.
        assert np.all(moved <= nested_bound(original) * 1.01 + 1e-6)
        assert moved.max() > 1e-5


def test_int8_layers_hold_the_nearest_steps(variant: Variant, cells: TinyCells) -> None:
    loaded = cells.load(variant, "int8", dtype="fp32")
    for layer, original in weights_of(loaded, cells.folder(variant), "fp32"):
        # Verifying the model ran every layer: its codes and scales are in the state now.
        codes = layer.state.CB.numpy().astype(np.float64)
        found = codes * layer.state.SCB.numpy().astype(np.float64)[:, None] / 127
        half_precision = original.astype(np.float16).astype(np.float32)
        assert_nearest(found, int8_rows(original), half_precision)
        assert np.abs(codes).max() == 127


def test_int8_outputs_are_near_those_of_the_numpy_weights(cells: TinyCells) -> None:
    import torch

    variant = VARIANTS[0]
    loaded = cells.load(variant, "int8", dtype="fp32")
    for layer, original in weights_of(loaded, cells.folder(variant), "fp32"):
        inputs = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            found = layer(inputs).double().numpy()
        expected = inputs.double().numpy() @ int8_rows(original).T
        # Activations are rounded to 255 steps too: about 1 % of a row's norm.
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_floating_layers_hold_the_rounded_weights(
    name: str, variant: Variant, cells: TinyCells
) -> None:
    loaded = cells.load(variant, name)
    is_gpt2 = variant.architecture == "gpt2"
    for layer, expected in weights_of(loaded, cells.folder(variant), name):
        found = layer.weight.float().numpy()
        assert np.array_equal(found.T if is_gpt2 else found, expected)
