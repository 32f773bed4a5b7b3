"""Floating-point codes: each code and scale against the format's public definition, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.errors import ModelError
from qbench.finetune.lora_options import LoraOptions
from qbench.precisions import precisions
from qbench.precisions.verification import linear_layers
from tests.precisions.numpy_formats import E2M1_LEVELS, E4M3_LEVELS, nearest_codes, rounded
from tests.precisions.test_contract import measured_bytes
from tests.precisions.test_quantized_values import checkpoint_weight, computed_weight
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, resolve
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.workplace import Workplace

VARIANTS = [
    Variant("llama-nested", "llama", {"hidden": 128, "intermediate": 320, "layers": 1}),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
]
EACH_VARIANT = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)


def once_quick(asked: Sequence[object]) -> list[Any]:
    """Each variant with all that is asked; quick but once for each, the others slow."""
    return [
        pytest.param(variant, one, marks=[] if (at + 1) % 3 == place else [pytest.mark.slow])
        for at, one in enumerate(asked)
        for place, variant in enumerate(VARIANTS)
    ]


def name_of(value: object) -> str:
    return value.label if isinstance(value, Variant) else str(value)


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


@pytest.mark.parametrize(("variant", "granularity"), once_quick(["row", "tensor"]), ids=name_of)
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


def packed(codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Two codes in a byte, the first in its lower half."""
    return (codes[:, ::2] + 16 * codes[:, 1::2]).astype(np.uint8)


def blocks_of(weight: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    return weight.astype(np.float64).reshape(len(weight), -1, size)


def test_the_levels_are_those_of_the_specifications() -> None:
    assert E2M1_LEVELS == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert (len(E4M3_LEVELS), E4M3_LEVELS[1], E4M3_LEVELS[8], E4M3_LEVELS[-1]) == (
        127, 2**-9, 2**-6, 448,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "asked"),
    once_quick([(8, "floor"), (8, "ceil"), (4, "floor"), (4, "ceil")]),
    ids=name_of,
)
def test_mx_codes_and_scales_element_by_element(
    variant: Variant, asked: tuple[int, str], cells: TinyCells
) -> None:
    bits, scaling = asked
    levels, sign, emax = (E4M3_LEVELS, 0x80, 8) if bits == 8 else (E2M1_LEVELS, 0x8, 2)
    name = f"mxfp{bits}"
    for layer, weight in layers_of(variant, cells, name, scaling=scaling, dtype="fp32"):
        blocks = blocks_of(weight, 32)
        largest = np.abs(blocks).max(axis=2, keepdims=True)
        if scaling == "floor":  # OCP MX 1.0, section 6.3
            exponents = np.floor(np.log2(largest)) - emax
        else:
            exponents = np.ceil(np.log2(largest / levels[-1]))
        assert (bytes_of(layer.weight.scale) == (exponents + 127)[..., 0]).all()
        codes = nearest_codes(blocks / 2.0**exponents, levels, sign).reshape(weight.shape)
        held = bytes_of(layer.weight.qdata)
        assert (held == (packed(codes) if bits == 4 else codes)).all()
        values = np.array(levels)[codes % sign] * np.where(codes >= sign, -1, 1)
        expected = (values.reshape(blocks.shape) * 2.0**exponents).reshape(weight.shape)
        assert computed_weight(layer) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@EACH_VARIANT
def test_nvfp4_codes_and_both_scales_element_by_element(variant: Variant, cells: TinyCells) -> None:
    for layer, weight in layers_of(variant, cells, "nvfp4", dtype="fp32"):
        whole = np.float32(np.abs(weight).max()) / np.float32(448 * 6)
        assert layer.weight.per_tensor_scale.item() == whole
        blocks = blocks_of(weight, 16)
        largest = np.abs(blocks).max(axis=2)
        wanted = np.maximum(largest / 6 / whole, 2.0**-6)
        scales = nearest_codes(wanted, E4M3_LEVELS, sign=0x80)
        assert (bytes_of(layer.weight.scale) == scales).all()
        steps = np.array(E4M3_LEVELS)[scales][..., None] * whole
        codes = nearest_codes(blocks / steps, E2M1_LEVELS, sign=0x8)
        assert (bytes_of(layer.weight.qdata) == packed(codes.reshape(weight.shape))).all()
        values = np.array(E2M1_LEVELS)[codes % 8] * np.where(codes >= 8, -1, 1)
        expected = (values * steps).reshape(weight.shape)
        assert computed_weight(layer) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def rounded_inputs(name: str, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Inputs (rows, width) as the format's definition rounds them."""
    if name == "fp8-w8a8":
        steps = np.abs(inputs).max(axis=1, keepdims=True).astype(np.float64) / 448
        levels, values = E4M3_LEVELS, inputs / steps
    else:
        size = 16 if name.startswith("nvfp4") else 32
        blocks = blocks_of(inputs, size)
        largest = np.abs(blocks).max(axis=2, keepdims=True)
        levels = E4M3_LEVELS if name == "mxfp8-w8a8" else E2M1_LEVELS
        if name == "nvfp4-w4a4":
            whole = np.abs(blocks).max() / (448 * 6)
            held = nearest_codes(np.maximum(largest / 6 / whole, 2.0**-6), E4M3_LEVELS, 0x80)
            steps = np.array(E4M3_LEVELS)[held] * whole
        else:
            steps = 2.0 ** np.ceil(np.log2(largest / levels[-1]))
        values = blocks / steps
    codes = nearest_codes(values, levels, sign=0x100)
    found = np.array(levels)[codes % 0x100] * np.where(codes >= 0x100, -1, 1) * steps
    return found.reshape(inputs.shape)


@pytest.mark.parametrize("name", ["fp8-w8a8", "mxfp8-w8a8", "mxfp4-w4a4", "nvfp4-w4a4"])
def test_inputs_are_rounded_to_the_same_format(name: str, cells: TinyCells) -> None:
    import torch

    for layer, _ in layers_of(VARIANTS[0], cells, name, dtype="fp32"):
        inputs = (
            torch.randn(2, 5, layer.in_features, generator=torch.Generator().manual_seed(3))
            * torch.tensor([[0.01, 1, 30, 0.5, 2]])[..., None]
        )
        with torch.inference_mode():
            found = layer(inputs).reshape(10, -1).numpy()
            weight = layer.weight.dequantize().double().numpy()
        rows = inputs.reshape(10, -1).numpy()
        expected = rounded_inputs(name, rows) @ weight.T
        largest = np.abs(expected).max(axis=1, keepdims=True)
        assert (np.abs(found - expected) <= 1e-5 * largest).mean() > 0.99
        exact = rows.astype(np.float64) @ weight.T
        assert np.linalg.norm(found - exact) > 10 * np.linalg.norm(found - expected)


def test_the_error_grows_as_bits_and_blocks_shrink(cells: TinyCells) -> None:
    def error(name: str, **options: Any) -> float:
        pairs = layers_of(VARIANTS[0], cells, name, dtype="fp32", **options)
        difference = sum(np.square(computed_weight(one) - weight).sum() for one, weight in pairs)
        return float(difference / sum(np.square(weight).sum() for _, weight in pairs)) ** 0.5

    of_8_bits = [error("fp8"), error("mxfp8")]
    of_4_bits = [error("nvfp4"), error("mxfp4", scaling="floor"), error("mxfp4")]
    assert max(of_8_bits) < 0.05 < min(of_4_bits)
    assert of_4_bits[0] == min(of_4_bits)
    assert error("fp8") < error("fp8", granularity="tensor")


def test_layers_whose_width_no_block_divides_stay_in_the_type_of_the_rest(
    cells: TinyCells,
) -> None:
    odd = Variant("llama-odd", "llama", {"hidden": 64, "intermediate": 72, "layers": 1})
    loaded = cells.load(odd, "mxfp4")
    details = loaded.verification.details
    assert loaded.verification.faults == ()
    assert "model.layers.0.mlp.down_proj" in details["left_out"]
    assert details["quantized_modules"] == 6
    (words, *_) = loaded.verification.warnings
    assert "1 linear layers (model.layers.0.mlp.down_proj (72 wide)), which stay in bf16" in words
    assert measured_bytes(loaded) == loaded.predicted


def test_a_model_that_no_block_divides_is_a_misfit(cells: TinyCells) -> None:
    odd = Variant("llama-all-odd", "llama", {"hidden": 40, "intermediate": 72, "layers": 1})
    model = resolve(cells.folder(odd))
    for name in ("mxfp8", "nvfp4-w4a4"):
        held = precisions()[name]
        words = held.misfit(held.options(), model)
        assert words is not None
        assert "the width of no linear layer (40, 72)" in words
        with pytest.raises(ModelError, match=r"the width of no linear layer \(40, 72\)"):
            cells.load(odd, name)
    assert precisions()["fp8"].misfit(precisions()["fp8"].options(), model) is None


@pytest.mark.parametrize(
    ("name", "too_old", "enough"),
    [
        ("fp8-w8a8", (8, 0), (8, 9)),
        ("mxfp8-w8a8", (9, 0), (10, 0)),
        ("mxfp4-w4a4", (8, 9), (10, 0)),
        ("nvfp4-w4a4", (9, 0), (12, 0)),
    ],
)
def test_a_gpu_that_cannot_multiply_codes_is_told_with_a_remedy(
    name: str, too_old: tuple[int, int], enough: tuple[int, int]
) -> None:
    held = precisions()[name]

    def incapable(capability: tuple[int, int] | None, **options: Any) -> str | None:
        gpu = {"device_type": "cuda", "device": "NVIDIA X", "capability": capability}
        return held.incapable(held.options(**options), make_environment(**gpu))

    words = incapable(too_old) or ""
    assert f"NVIDIA X has {too_old[0]}.{too_old[1]}" in words
    assert "activations: none" in words
    assert incapable(enough) is None
    assert incapable(None) is None
    assert "set dtype: bf16" in (incapable(enough, dtype="fp32") or "")
    assert held.incapable(held.options(), make_environment()) is None
    weights = precisions()[name.partition("-")[0]]
    gpu = make_environment(device_type="cuda", capability=too_old)
    assert weights.incapable(weights.options(), gpu) is None
    assert weights.incapable(weights.options(activations="dynamic"), gpu) is not None


def test_whose_figures_depend_on_the_batch() -> None:
    pooled = {name for name, held in precisions().items() if held.pools_batch(held.options())}
    assert pooled == {"int8", "nvfp4-w4a4"}
    fp8 = precisions()["fp8-w8a8"]
    assert fp8.pools_batch(fp8.options(granularity="tensor"))


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear")  # that PEFT cannot merge in place
@pytest.mark.parametrize("name", ["fp8", "mxfp8", "mxfp4", "nvfp4"])
def test_a_gradient_reaches_adapters_below_every_layer(name: str, cells: TinyCells) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    held = precisions()[name]
    assert held.untrainable(held.options(), "lora", LoraOptions()) is None
    loaded = load_fresh(cells.folder(VARIANTS[0]), name)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    model = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=targets))
    model(
        input_ids=torch.tensor([[1, 2, 3, 4]]), labels=torch.tensor([[1, 2, 3, 4]])
    ).loss.backward()
    found = {at: one.grad for at, one in model.named_parameters() if "lora_B" in at}
    assert len(found) == len(targets)
    for gradient in found.values():
        assert gradient is not None
        assert gradient.abs().sum() > 0
    coded = [one for at, one in linear_layers(loaded.model) if hasattr(one.weight, "qdata")]
    assert len(coded) == 7


@pytest.mark.parametrize("name", ["fp8-w8a8", "mxfp8-w8a8", "mxfp4-w4a4", "nvfp4-w4a4"])
def test_nothing_is_trained_through_rounded_inputs(name: str) -> None:
    held = precisions()[name]
    words = held.untrainable(held.options(), "lora", LoraOptions()) or ""
    assert f"{name} rounds its inputs" in words
    assert "activations: none" in words


@pytest.mark.parametrize("name", ["fp8", "mxfp8", "mxfp4", "nvfp4", "nvfp4-w4a4"])
def test_what_a_format_is_stands_in_its_explanation(name: str, workplace: Workplace) -> None:
    text = workplace.call_here("explain", name, "--format", "markdown").output
    assert "## How it holds a number" in text
    assert ("E4M3" if name.endswith("fp8") else "E2M1") in text
    assert "## Where its speed is real" in text
