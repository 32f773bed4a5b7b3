"""The optimizers by name: on the CPU as they are, and their state across a stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes
import pytest
import torch

from qbench.finetune.optimizers import (
    fallback_reason,
    make_optimizer,
    optimizer_unavailable,
    restore_optimizer,
)
from qbench.finetune.options import TrainingOptions
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("adamw", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit")
CLASSES = {
    "adamw": torch.optim.AdamW,
    "adamw_8bit": bitsandbytes.optim.AdamW8bit,
    "paged_adamw_32bit": bitsandbytes.optim.PagedAdamW32bit,
    "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
}


def make_layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 128)


def options(name: str, **changes: Any) -> TrainingOptions:
    return TrainingOptions.model_validate({"optimizer": name, "learning_rate": 1e-2, **changes})


def take_steps(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, first: int) -> None:
    for step in range(first, first + 3):
        torch.manual_seed(step)
        layer(torch.randn(4, 64)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_updates_as_the_class_of_that_name_does(name: str) -> None:
    ours, plain = make_layer(), make_layer()
    take_steps(ours, make_optimizer(options(name), ours.parameters()), 0)
    made = CLASSES[name](plain.parameters(), lr=1e-2, weight_decay=0.0)
    take_steps(plain, made, 0)
    assert torch.equal(ours.weight, plain.weight)
    assert torch.equal(ours.bias, plain.bias)


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_from_its_state_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    through, stopped = make_layer(), make_layer()
    optimizer = make_optimizer(options(name), through.parameters())
    take_steps(through, optimizer, 0)
    take_steps(through, optimizer, 3)
    first = make_optimizer(options(name), stopped.parameters())
    take_steps(stopped, first, 0)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make_optimizer(options(name), stopped.parameters())
    restore_optimizer(second, torch.load(tmp_path / "state.pt", weights_only=True))
    take_steps(stopped, second, 3)
    assert torch.equal(stopped.weight, through.weight)
    assert torch.equal(stopped.bias, through.bias)


def test_a_code_book_is_shared_after_a_stop_as_before() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 64))
    optimizer = make_optimizer(options("adamw_8bit"), layers.parameters())
    layers(torch.randn(4, 64)).sum().backward()
    optimizer.step()
    again = make_optimizer(options("adamw_8bit"), layers.parameters())
    restore_optimizer(again, optimizer.state_dict())
    books = {state["qmap1"].data_ptr() for state in again.state.values() if "qmap1" in state}
    assert len(books) == 1
    assert sum("qmap1" in state for state in again.state.values()) == 2


def test_only_matrices_decay() -> None:
    layer = make_layer()
    with torch.no_grad():
        layer.bias.fill_(1.0)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(options("adamw", weight_decay=0.5), layer.parameters())
    layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros(128)
    optimizer.step()
    torch.testing.assert_close(layer.weight, before * (1 - 0.5 * 1e-2))
    assert torch.equal(layer.bias, torch.ones(128))


def test_frozen_weights_are_left_out() -> None:
    layer = make_layer()
    layer.weight.requires_grad = False
    optimizer = make_optimizer(options("adamw"), layer.parameters())
    assert [group["params"] for group in optimizer.param_groups] == [[layer.bias]]


def test_a_paged_one_on_a_cpu_says_that_it_is_not() -> None:
    reason = fallback_reason("paged_adamw_8bit", "cpu")
    assert reason is not None
    assert "unpaged" in reason
    assert fallback_reason("paged_adamw_8bit", "cuda:0") is None
    assert fallback_reason("adamw_8bit", "cpu") is None


def test_bitsandbytes_is_needed_by_its_own_alone() -> None:
    without = make_environment(versions={"bitsandbytes": None})
    missing = {name: optimizer_unavailable(name, without) for name in CLASSES}  # type: ignore[arg-type]
    assert missing["adamw"] is None
    assert all("pip install qbench-llm" in (missing[name] or "") for name in NAMES[1:])
