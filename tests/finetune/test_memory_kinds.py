"""Bytes by kind against arithmetic from shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.checkpoint import Checkpoint
from qbench.finetune.train.memory_kinds import KindBytes, bytes_by_kind, held_tensors
from qbench.precisions import precisions
from tests.precisions.tiny_cells import resolve, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

_RANK = 8
_TARGETS = {"q_proj": (64, 64), "v_proj": (64, 32), "down_proj": (128, 64)}
"""Of the tiny llama: (in, out)."""
_LAYERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("kinds"), "llama")


def _load(folder: Path, precision: str) -> Any:
    return precisions()[precision].load(Checkpoint(folder, "cpu"), typed_options_of(precision))


def _with_adapters(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=_RANK, target_modules=list(_TARGETS), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _step(model: Any, optimizer: torch.optim.Optimizer) -> KindBytes:
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.arange(16)[None], use_cache=False).logits.sum().backward()
    optimizer.step()
    return bytes_by_kind(model, optimizer)


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def test_full_tuning_has_eight_bytes_of_state_a_weight_and_a_step_count_a_tensor(
    folder: Path,
) -> None:
    model = _load(folder, "fp32").requires_grad_(requires_grad=True)
    shape = resolve(folder).shape
    assert shape is not None
    weights = sum(tensor.numel for tensor in shape.tensors if tensor.role != "buffer")
    buffers = sum(tensor.numel for tensor in shape.tensors if tensor.role == "buffer")
    tensors = len(list(model.parameters()))
    assert _step(model, torch.optim.AdamW(model.parameters())) == KindBytes(
        base_weights=4 * (weights + buffers),
        quantization_state=0,
        adapters=0,
        gradients=4 * weights,
        optimizer_state=8 * weights + 4 * tensors,
    )


@pytest.mark.parametrize("precision", ["bf16", "int8", "fp4", "nf4", "nf4-dq"])
def test_lora_on_any_base(folder: Path, precision: str) -> None:
    model = _with_adapters(_load(folder, precision))
    shape = resolve(folder).shape
    assert shape is not None
    predicted = precisions()[precision].storage(shape, typed_options_of(precision))
    adapters = _LAYERS * sum(_RANK * (inputs + outputs) for inputs, outputs in _TARGETS.values())
    found = _step(model, torch.optim.AdamW(_trained(model)))
    assert found == KindBytes(
        base_weights=predicted.total - predicted.quantization_state,
        quantization_state=predicted.quantization_state,
        adapters=4 * adapters,
        gradients=4 * adapters,
        optimizer_state=8 * adapters + 4 * 2 * len(_TARGETS) * _LAYERS,
    )
    assert found.total == sum(vars(found).values())


def test_what_is_not_there_yet_or_any_more_does_not_count(folder: Path) -> None:
    model = _load(folder, "bf16").requires_grad_(requires_grad=True)
    optimizer = torch.optim.AdamW(model.parameters())
    before = bytes_by_kind(model, optimizer)
    assert (before.gradients, before.optimizer_state, before.adapters) == (0, 0, 0)
    assert _step(model, optimizer).gradients > 0
    optimizer.zero_grad(set_to_none=True)
    after = bytes_by_kind(model, optimizer)
    assert (after.gradients, after.base_weights) == (0, before.base_weights)


def test_tied_weights_and_their_gradient_count_once(tmp_path: Path) -> None:
    model = _load(make_tiny_model(tmp_path, "llama", tied=True), "fp32")
    model.requires_grad_(requires_grad=True)
    optimizer = torch.optim.SGD(model.parameters())
    weights = sum(weight.numel() for weight in model.parameters())  # torch lists each once
    found = _step(model, optimizer)
    buffers = sum(buffer.numel() for buffer in model.buffers())
    assert (found.base_weights, found.gradients) == (4 * (weights + buffers), 4 * weights)


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_eight_bit_states_share_their_code_books(name: str) -> None:
    import bitsandbytes

    model = torch.nn.Sequential(
        torch.nn.Linear(128, 100), torch.nn.Linear(100, 64), torch.nn.Linear(64, 4, bias=False)
    )
    optimizer = getattr(bitsandbytes.optim, name)(model.parameters())
    model(torch.ones(2, 128)).sum().backward()
    optimizer.step()
    states = 0
    for weight in model.parameters():
        count = weight.numel()
        # Two moments: in fp32 below 4,096 elements, else a byte each and an fp32 a block of 256.
        states += 8 * count if count < 4096 else 2 * count + 2 * 4 * -(-count // 256)
    assert _kinds(model, optimizer).optimizer_state == states + 2 * 4 * 256


def _kinds(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> KindBytes:
    # A bare module has no output head to be told from its linear layers.
    model.get_output_embeddings = lambda: None  # type: ignore[assignment]
    return bytes_by_kind(model, optimizer)


def test_held_tensors_are_those_that_are_counted(folder: Path) -> None:
    model = _with_adapters(_load(folder, "nf4-dq"))
    optimizer = torch.optim.AdamW(_trained(model))
    found = _step(model, optimizer)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in held_tensors(model, optimizer)
    }
    assert sum(storages.values()) == found.total
