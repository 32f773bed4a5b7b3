"""Floating-point codes: each code and scale against the format's public definition, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.precisions.verification import linear_layers
from tests.precisions.numpy_formats import E4M3_LEVELS, nearest_codes, rounded
from tests.precisions.test_quantized_values import checkpoint_weight, computed_weight
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VARIANTS = [
    Variant("llama-nested", "llama", {"hidden": 128, "intermediate": 320, "layers": 1}),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
]
EACH_VARIANT = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)


def layers_of(
    variant: Variant, cells: TinyCells, name: str, **options: Any
) -> list[tuple[Any, NDArray[np.float32]]]:
    """Each quantized layer with its weight as the file has it."""
    loaded = cells.load(variant, name, **options)
    folder = cells.folder(variant)
    return [(layer, checkpoint_weight(folder, at)) for at, layer in linear_layers(loaded.model)]


def bytes_of(tensor: Any) -> NDArray[np.uint8]:
    import torch

    found: NDArray[np.uint8] = tensor.view(torch.uint8).numpy()
    return found


@EACH_VARIANT
@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_fp8_codes_and_scales_element_by_element(
    variant: Variant, granularity: str, cells: TinyCells
) -> None:
    for layer, weight in layers_of(variant, cells, "fp8", granularity=granularity, dtype="fp32"):
        axis = 1 if granularity == "row" else None
        largest = np.abs(weight).max(axis=axis, keepdims=True)
        scales = (largest / np.float32(448)).astype(np.float32)
        assert (layer.weight.scale.numpy() == scales).all()
        codes = nearest_codes((weight / scales).astype(np.float64), E4M3_LEVELS, sign=0x80)
        assert (bytes_of(layer.weight.qdata) == codes).all()
        values = np.array(E4M3_LEVELS)[codes % 0x80] * np.where(codes >= 0x80, -1, 1)
        assert computed_weight(layer) == pytest.approx(values * scales, rel=1e-6, abs=1e-7)


def test_fp8_in_bf16_quantizes_the_rounded_weights_in_fp32(cells: TinyCells) -> None:
    for layer, weight in layers_of(VARIANTS[0], cells, "fp8"):
        held = rounded(weight, "bf16")
        scales = np.abs(held).max(axis=1, keepdims=True) / np.float32(448)
        assert (layer.weight.scale.numpy() == scales).all()
        assert str(layer.weight.dtype) == "torch.bfloat16"


def test_a_row_of_zeros_stays_zeros(tmp_path: Path, cells: TinyCells) -> None:
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    folder = copytree(cells.folder(VARIANTS[0]), tmp_path / "with-zeros")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][5] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_fresh(folder, "fp8")
    assert loaded.verification.faults == ()
    held = loaded.model.get_submodule("model.layers.0.mlp.up_proj").weight.dequantize()
    assert not held[5].any()
