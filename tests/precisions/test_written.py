"""What each precision writes is, once it is loaded by its library, what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import UsageError
from qbench.core.spec import PrecisionRef
from qbench.precisions import precisions
from qbench.precisions.inventory import inventory
from qbench.precisions.loading import load_pretrained
from qbench.precisions.writing.choosing import form_of
from qbench.precisions.writing.numbers import numbers_form
from tests.precisions.tiny_cells import quick_options, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.precisions.writing.form import CheckpointForm

TEXT = {"calibration_text": "bundled:stdlib-excerpt"}
GROUPS = {"granularity": "group", "group": 16}
WITH_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("int8", {"dtype": "fp16", "threshold": 0.0}),
    ("nf4", {"compute_dtype": "fp32", "dtype": "bf16"}),
    ("integer", {"bits": 3, "granularity": "tensor"}),
    ("integer", {"bits": 3, "mapping": "asymmetric", **GROUPS}),
    ("integer", {"bits": 2, **GROUPS}),
    ("integer", {"bits": 7, "dtype": "fp32"}),
    ("integer", {"bits": 4, "activations": "dynamic", **GROUPS}),
    ("integer", {"bits": 4, "mapping": "asymmetric", "weights": "gptq", **TEXT}),
    ("integer", {"activations": "dynamic", "granularity": "tensor"}),
    ("fp8", {"granularity": "tensor"}),
    ("fp8-w8a8", {"granularity": "tensor"}),
    ("mxfp4", {"scaling": "floor", "dtype": "fp32"}),
    ("gguf-q4_k_m", {"dtype": "fp16", "embeddings": False}),
]
"""Beside the defaults of every precision in the table."""


def forms(name: str, options: dict[str, Any]) -> list[CheckpointForm]:
    held, typed = precisions()[name], typed_options_of(name, **options)
    numbers = numbers_form(held, typed)
    return [*held.forms(typed), *([] if numbers is None else [numbers])]


def cases() -> Iterator[Any]:
    plain = [(name, quick_options(name)) for name in precisions() if name != "stored"]
    for name, options in (*plain, *WITH_OPTIONS):
        for form in forms(name, options):
            shown = "-".join(str(one) for one in options.values() if one not in TEXT.values())
            yield pytest.param(name, options, form.name, id=f"{name}-{shown}-{form.name}")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose widths hold groups of 256, of bf16, with biases."""
    folder = tmp_path_factory.mktemp("written") / "model"
    sizes = {"hidden": 256, "intermediate": 512, "layers": 1, "attention_bias": True}
    return make_tiny_model(folder, "llama", dtype="bfloat16", **sizes)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 35)[None]).logits.float()


def held_bytes(model: PreTrainedModel) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for one in inventory(model):
        size = one.tensor.untyped_storage().nbytes()
        sizes[one.kind] = sizes.get(one.kind, 0) + size
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "form"), cases())
def test_what_is_loaded_is_what_was_measured(
    name: str, options: dict[str, Any], form: str, source: Path, tmp_path: Path
) -> None:
    held, typed = precisions()[name], typed_options_of(name, **options)
    checkpoint = Checkpoint(source, "cpu")
    model = held.load(checkpoint, typed)
    expected, bytes_before = logits(model), held_bytes(model)
    chosen = next(one for one in forms(name, options) if one.name == form)
    chosen.write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    again = replace(checkpoint, folder=tmp_path)
    if "quantization_config" in config:
        stored = precisions()["stored"]
        found = stored.load(again, stored.options())
        assert not stored.verify(found, stored.options()).faults
    else:
        found = load_pretrained(again, dtype="auto")
    off = float((logits(found) - expected).norm() / expected.norm())
    assert off <= chosen.tolerance
    if off:
        assert chosen.inexact
    if chosen.same_bytes:
        assert held_bytes(found) == bytes_before
    written = {one.suffix for one in tmp_path.iterdir()}
    assert written == {".json", ".safetensors"}


def test_every_precision_is_written_or_says_why_not() -> None:
    for name, held in precisions().items():
        options = typed_options_of(name, **quick_options(name))
        if not held.forms(options):
            assert held.unwritable(options) != ""
            with pytest.raises(UsageError, match="cannot be written"):
                form_of(ref(name))


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("nf4", "torchoa", "There is bitsandbytes, numbers"),
        ("hqq4", "torchao", "There is numbers"),
        ("w8a8", "numbers", "There is torchao, compressed-tensors"),
    ],
)
def test_a_form_that_a_precision_has_not_is_told_with_those_it_has(
    name: str, form: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        form_of(ref(name), form)


def test_layers_the_other_way_round_are_told(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", "gpt2")
    held = precisions()["int8-wo"]
    model = held.load(Checkpoint(folder, "cpu"), held.options())
    for form in held.forms(held.options()):
        with pytest.raises(UsageError, match="Conv1D"):
            form.write(model, tmp_path / "written")
    numbers = numbers_form(held, held.options())
    assert numbers is not None
    expected = logits(model)
    numbers.write(model, tmp_path / "written")
    found = load_pretrained(Checkpoint(tmp_path / "written", "cpu"), dtype="auto")
    torch.testing.assert_close(logits(found), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("form", ["torchao", "compressed-tensors"])
def test_large_models_are_in_several_files(
    form: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbench.precisions.writing.form._SHARD", "300KB")
    held, stored = precisions()["int8-wo"], precisions()["stored"]
    model = held.load(Checkpoint(source, "cpu"), held.options())
    expected = logits(model)
    form_of(ref("int8-wo"), form).write(model, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    found = stored.load(Checkpoint(tmp_path, "cpu"), stored.options())
    assert torch.equal(logits(found), expected)


def ref(name: str) -> PrecisionRef:
    options = typed_options_of(name, **quick_options(name)).model_dump(mode="json")
    return PrecisionRef(label=name, name=name, options=options)
