"""Shapes from the header equal those that transformers builds and loads."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import ModelError
from qbench.core.spec import ModelShape, TensorShape
from qbench.sources.models.headers import read_headers, weight_files
from qbench.sources.shapes.from_meta import Unbuilt, shapes_from_meta
from qbench.sources.shapes.meta import describe
from qbench.sources.shapes.shapes import shape_from_headers
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def edit_config(folder: Path, **changes: Any) -> dict[str, Any]:
    config = {**read_config(folder), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def shape_of(folder: Path) -> ModelShape:
    headers = read_headers(weight_files(folder))
    shape = shape_from_headers(headers, read_config(folder), str(folder))
    if shape is not None:
        return shape
    ((shape, reason),) = shapes_from_meta([Unbuilt(folder)])
    assert reason is None
    assert shape is not None
    return shape


def contents(shape: ModelShape) -> Counter[tuple[object, ...]]:
    return Counter(
        (tensor.shape, tensor.role, tensor.dtype, tensor.transposed) for tensor in shape.tensors
    )


def meta_contents(folder: Path) -> Counter[tuple[object, ...]]:
    return Counter(
        (tuple(tensor["shape"]), tensor["role"], tensor["dtype"], tensor["transposed"])
        for tensor in describe(str(folder))
    )


def loaded_bytes(folder: Path, dtype: str) -> int:
    """Bytes of the unique storages of a really loaded model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def arithmetic_bytes(shape: ModelShape, item_bytes: int) -> int:
    return sum(
        tensor.numel * (4 if tensor.dtype == "float32" else item_bytes) for tensor in shape.tensors
    )


def test_header_equals_meta(variant_folder: Path) -> None:
    shape = shape_of(variant_folder)
    assert shape.origin == "header"
    assert contents(shape) == meta_contents(variant_folder)


@pytest.mark.parametrize(("dtype", "item_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_equal_those_of_the_loaded_model(
    variant_folder: Path, dtype: str, item_bytes: int
) -> None:
    shape = shape_of(variant_folder)
    assert arithmetic_bytes(shape, item_bytes) == loaded_bytes(variant_folder, dtype)


def test_names_equal_those_of_the_loaded_model(variant_folder: Path) -> None:
    assert {tensor.name for tensor in shape_of(variant_folder).tensors} == {
        tensor["name"] for tensor in describe(str(variant_folder))
    }


def test_tied_head_is_listed_once_as_embedding(tied_llama_folder: Path) -> None:
    roles = Counter(tensor.role for tensor in shape_of(tied_llama_folder).tensors)
    assert roles["embedding"] == 1
    assert roles["head"] == 0


def test_default_of_tying_is_the_architectures(tmp_path: Path) -> None:
    for architecture, tied in (("gpt2", True), ("llama", False)):
        folder = make_tiny_model(tmp_path / architecture, architecture, tied=tied)
        config = read_config(folder)
        del config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
        assert contents(shape_of(folder)) == meta_contents(folder)


def rewrite(folder: Path, change: Any) -> None:
    """Saves the model's tensors again as `change` makes them from a dict of them."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_old_gpt2_names_and_masks(tmp_path: Path) -> None:
    import torch

    folder = make_tiny_model(tmp_path, "gpt2", tied=True)
    expected = contents(shape_of(folder))

    def as_in_2019(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        masks = {
            f"h.{layer}.attn.{name}": torch.ones(1, 1, 128, 128)
            for layer in range(2)
            for name in ("bias", "masked_bias")
        }
        return {**old, **masks}

    rewrite(folder, as_in_2019)
    shape = shape_of(folder)
    assert contents(shape) == expected
    assert arithmetic_bytes(shape, 4) == loaded_bytes(folder, "float32")


def test_old_rotary_caches_are_not_loaded(tmp_path: Path, llama_folder: Path) -> None:
    import torch

    folder = tmp_path / "old"
    shutil.copytree(llama_folder, folder)
    rewrite(
        folder,
        lambda tensors: {
            **tensors,
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
        },
    )
    assert contents(shape_of(folder)) == contents(shape_of(llama_folder))


@pytest.mark.parametrize("equal", [True, False])
def test_both_saved_though_tied(tmp_path: Path, tied_llama_folder: Path, *, equal: bool) -> None:
    folder = tmp_path / "both"
    shutil.copytree(tied_llama_folder, folder)
    embedding = "model.embed_tokens.weight"
    rewrite(
        folder,
        lambda tensors: {
            **tensors,
            "lm_head.weight": tensors[embedding] * (1 if equal else 2),
        },
    )
    shape = shape_of(folder)
    assert sum(tensor.role == "head" for tensor in shape.tensors) == (0 if equal else 1)
    assert arithmetic_bytes(shape, 4) == loaded_bytes(folder, "float32")


def test_only_the_head_saved_though_tied(tmp_path: Path, tied_llama_folder: Path) -> None:
    folder = tmp_path / "head"
    shutil.copytree(tied_llama_folder, folder)

    def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        return tensors

    rewrite(folder, renamed)
    assert contents(shape_of(folder)) == contents(shape_of(tied_llama_folder))
    assert arithmetic_bytes(shape_of(folder), 4) == loaded_bytes(folder, "float32")


def test_missing_head_is_refused(tmp_path: Path, tied_llama_folder: Path) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(tied_llama_folder, folder)
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"no output head \(lm_head.weight\).*tie_word_embeddings"):
        shape_of(folder)


@pytest.mark.slow
def test_partial_rotary_and_fewer_layers_are_left_to_the_meta_model(
    tmp_path: Path, llama_folder: Path
) -> None:
    folder = tmp_path / "fewer"
    shutil.copytree(llama_folder, folder)
    edit_config(folder, num_hidden_layers=1)
    shape = shape_of(folder)
    assert shape.origin == "meta"
    assert contents(shape) == meta_contents(folder)
    assert arithmetic_bytes(shape, 4) == loaded_bytes(folder, "float32")


def test_architecture_that_is_not_in_the_table(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    folder = tmp_path / "neox"
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    headers = read_headers(weight_files(folder))
    assert shape_from_headers(headers, read_config(folder), str(folder)) is None
    # That a process is asked for it, and tells the same, is shown in test_from_meta.
    told = [TensorShape.model_validate(one) for one in describe(str(folder))]
    shape = ModelShape(tensors=tuple(told), origin="meta")
    assert arithmetic_bytes(shape, 4) == loaded_bytes(folder, "float32")
    assert arithmetic_bytes(shape, 2) == loaded_bytes(folder, "bfloat16")
    roles = Counter(tensor.role for tensor in shape.tensors)
    # Two layers of four linear layers with biases, two norms each and a last one.
    assert roles["linear"] == 8
    assert roles["bias"] == 8
    assert roles["norm"] == 10
    assert (roles["embedding"], roles["head"]) == (1, 1)
