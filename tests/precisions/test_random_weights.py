"""Random weights: the true shape in every precision, made with little more than they take."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from qbench.core.checkpoint import Checkpoint
from qbench.core.spec import StaticBytes
from qbench.finetune.train.live_bytes import StorageCount
from qbench.precisions import precisions
from qbench.precisions.inventory import inventory
from qbench.running.loading import load
from qbench.sources.models.resolve import fetch_model, parse_model, resolve_model
from tests.precisions.tiny_cells import load_fresh, make_job, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel

SHAPES = {
    "llama": {"hidden": 64, "bos": True},
    "llama-tied": {"tied": True},
    "gpt2-tied": {"tied": True},
    "gpt2": {},
    "qwen2": {},
}
BNB = ("int8", "fp4", "nf4", "nf4-dq")
OWN = ("fp32", "bf16", "fp16", *BNB)
CASES = [
    *((label, precision) for label in ("llama", "gpt2-tied") for precision in OWN),
    # The other shapes with a few of each kind.
    *((label, name) for label in ("llama-tied", "gpt2", "qwen2") for name in ("bf16", "nf4-dq")),
    ("gpt2", "int8"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that hold a configuration and nothing else."""
    made = {}
    for label, options in SHAPES.items():
        full = make_tiny_model(tmp_path_factory.mktemp("full"), label.split("-")[0], **options)
        made[label] = tmp_path_factory.mktemp(label)
        shutil.copyfile(full / "config.json", made[label] / "config.json")
    return made


class RealBytes(TorchDispatchMode):
    """Counts what tensors with data hold; those of a model without data hold nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = StorageCount()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                self.count.see(value, made_now=True)
        return made


def load_random(folder: Path, precision: str) -> LoadedModel:
    model = resolve_model(parse_model(f"random:{folder}", base=folder))
    return load(make_job(model, precision), lambda phase: None)


def measured_bytes(loaded: LoadedModel) -> StaticBytes:
    by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
    for held in inventory(loaded.model):
        by_kind[held.kind] += held.tensor.untyped_storage().nbytes()
    return StaticBytes(**by_kind)


@pytest.mark.parametrize(("label", "precision"), CASES)
def test_bytes_are_the_predicted_ones_and_layers_are_what_they_should_be(
    label: str, precision: str, folders: dict[str, Path]
) -> None:
    loaded = load_random(folders[label], precision)
    shape = loaded.resolved.shape
    assert shape is not None
    assert shape.origin == "config"
    assert measured_bytes(loaded) == loaded.predicted
    assert loaded.verification.faults == ()
    assert loaded.verification.warnings == ()
    linear = sum(tensor.role == "linear" for tensor in shape.tensors)
    quantized = loaded.verification.details["quantized_modules"]
    assert quantized == (linear if precision in BNB else 0)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    with torch.inference_mode():
        assert loaded.model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


@pytest.mark.parametrize("precision", ["bf16", *BNB])
@pytest.mark.parametrize("label", ["llama", "gpt2-tied"])
def test_as_if_a_checkpoint_of_these_weights_were_loaded(
    label: str, precision: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    load_random(folders[label], "bf16").model.save_pretrained(tmp_path / "saved")
    expected = load_fresh(tmp_path / "saved", precision)
    found = load_random(folders[label], precision)
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        logits = found.model(input_ids=ids).logits
        assert torch.equal(logits, expected.model(input_ids=ids).logits)
    assert logits.std() > 0


@pytest.mark.parametrize("precision", OWN)
def test_never_more_than_one_weight_is_there_unquantized(precision: str, tmp_path: Path) -> None:
    full = make_tiny_model(tmp_path / "full", "llama", hidden=256, layers=4)
    model = resolve_model(parse_model(f"random:{full}", base=tmp_path))
    folder, options = fetch_model(model), typed_options_of(precision)
    with RealBytes() as seen:
        built = precisions()[precision].load(Checkpoint(folder, "cpu"), options)
    final_bytes = sum(held.tensor.untyped_storage().nbytes() for held in inventory(built))
    assert model.shape is not None
    largest = max(t.numel for t in model.shape.tensors if t.role == "linear")
    whole_bytes = 2 * model.shape.weights
    # While one is quantized: itself in bf16, its copy in fp16 or fp32, and codes.
    assert seen.count.peak_bytes <= final_bytes + largest * (2 + 4 + 1)
    if precision in BNB:
        assert seen.count.peak_bytes < whole_bytes
    else:
        assert seen.count.peak_bytes <= 1.01 * final_bytes


def test_tokens_are_those_of_the_bundled_tokenizer(folders: dict[str, Path]) -> None:
    loaded = load_random(folders["gpt2"], "bf16")
    assert loaded.has_random_weights
    ids = loaded.tokenizer("def add(first): return first")["input_ids"]
    assert len(set(ids)) > 3
