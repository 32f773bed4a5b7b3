"""An adapter in 8 and 4 bits against its definition in numpy, and its bytes against a sum."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.errors import MeasurementError
from qbench.finetune.serve.adapter_storage import (
    BLOCK,
    load_stored,
    read_adapter_tensors,
    store_adapter,
)
from tests.precisions.numpy_formats import NF4_LEVELS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from qbench.core.spec import Deployment

KINDS: tuple[Deployment, ...] = ("adapter-int8", "adapter-nf4")
SHAPES = {
    "base_model.model.a.lora_A.weight": (8, 96),  # widths that are no multiple of a block
    "base_model.model.a.lora_B.weight": (48, 8),
    "base_model.model.b.lora_A.weight": (1, 7),  # an odd number of weights
    "base_model.model.b.lora_B.weight": (3, 1),
    "base_model.model.b.lora_magnitude_vector": (5,),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    tensors["base_model.model.a.lora_B.weight"][:8] = 0  # whole blocks of nothing
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    return tmp_path


def dynamic_levels() -> NDArray[np.float64]:
    """The signed dynamic 8-bit map of Dettmers et al. 2022: exponent by leading zeros."""
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)
        levels += [*means, *-means]
    return np.sort(np.array(levels))


def naive(values: NDArray[Any], kind: Deployment) -> NDArray[np.float64]:
    levels = np.array(NF4_LEVELS) if kind == "adapter-nf4" else dynamic_levels()
    flat = values.astype(np.float64).reshape(-1)
    found = np.empty_like(flat)
    for start in range(0, flat.size, BLOCK[kind]):
        part = flat[start : start + BLOCK[kind]]
        maximum = np.abs(part).max()
        nearest = np.abs(part[:, None] / (maximum or 1) - levels).argmin(axis=1)
        found[start : start + BLOCK[kind]] = levels[nearest] * maximum
    return found.reshape(values.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_come_back_as_the_definition_has_them(folder: Path, kind: Deployment) -> None:
    original = read_adapter_tensors(folder)
    found = load_stored(store_adapter(folder, kind))
    assert found.keys() == original.keys()
    for name, tensor in original.items():
        assert found[name].shape == tensor.shape
        assert str(found[name].dtype) == "torch.float32"
        expected = naive(tensor.numpy(), kind) if tensor.dim() > 1 else tensor.numpy()
        # Where a value lies midway between two levels either is the nearest. bitsandbytes' kernel
        # for CPUs misses levels that are closer than 1e-4 of the block's maximum.
        error = np.abs(found[name].numpy() - tensor.numpy())
        least = np.abs(expected - tensor.numpy())
        np.testing.assert_allclose(error, least, atol=3e-4 if kind == "adapter-int8" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_its_length_is_what_it_holds(folder: Path, kind: Deployment) -> None:
    contents = store_adapter(folder, kind)
    codes = maxima = 0
    for shape in SHAPES.values():
        count = int(np.prod(shape))
        if len(shape) > 1:
            codes += count if kind == "adapter-int8" else -(-count // 2)
            maxima += 4 * -(-count // BLOCK[kind])
    book = 4 * (256 if kind == "adapter-int8" else 16)
    vector = 4 * 5
    header = 8 + int.from_bytes(contents[:8], "little")
    assert len(contents) == header + codes + maxima + book + vector


def test_it_saves_what_it_says_on_a_real_rank(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x.lora_A.weight": torch.randn(64, 4096)}, tmp_path / "adapter_model.safetensors")
    original = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert original / len(store_adapter(tmp_path, "adapter-int8")) == pytest.approx(4, rel=0.03)
    assert original / len(store_adapter(tmp_path, "adapter-nf4")) == pytest.approx(
        32 / 4.5, rel=0.01
    )


@pytest.mark.parametrize("kind", KINDS)
def test_storing_is_deterministic(folder: Path, kind: Deployment) -> None:
    assert store_adapter(folder, kind) == store_adapter(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_reader_can_open_the_file(folder: Path, kind: Deployment) -> None:
    from safetensors import safe_open

    path = folder / "stored.safetensors"
    path.write_bytes(store_adapter(folder, kind))
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["adapter"])
        assert f"adapter-{about['kind']}" == kind
        assert len(about["shapes"]) == 4
        assert file.get_tensor("base_model.model.b.lora_magnitude_vector").shape == (5,)


def test_an_adapter_in_bf16_is_stored_too(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"x.lora_A.weight": torch.randn(4, 64).bfloat16()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    found = load_stored(store_adapter(tmp_path, "adapter-int8"))["x.lora_A.weight"]
    assert (found - tensors["x.lora_A.weight"].float()).abs().max() < 0.05


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"adapter_model\.safetensors: the adapter's"):
        store_adapter(tmp_path, "adapter-nf4")
