"""Reading a model block by block gives what reading it whole gives, with each block run twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from qbench.precisions.integer.gptq import quantize_by_gptq
from qbench.precisions.integer.options import IntegerOptions
from qbench.precisions.integer.walk import Walk
from qbench.precisions.plain_layers import plain_linear_layers, replace_conv1d
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    import torch

WINDOWS = 3
OPTIONS = IntegerOptions(bits=3, weights="gptq", dtype="fp32")


def windows() -> list[torch.Tensor]:
    import torch

    numbers = torch.Generator().manual_seed(0)
    return [torch.randint(1, 99, (1, 24), generator=numbers) for _ in range(WINDOWS)]


def codes(model: Any) -> dict[str, torch.Tensor]:
    import torch

    layers: dict[str, Any] = plain_linear_layers(model)
    quantize_by_gptq(model, layers, windows(), OPTIONS, torch.float32)
    return {name: layer.weight.qdata for name, layer in layers.items()}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_each_block_runs_twice_and_the_codes_are_the_same(
    architecture: str, cells: TinyCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cells.folder(Variant(f"{architecture}-3", architecture, {"layers": 3}))
    made, ran = [], []
    for is_whole in (False, True):
        if is_whole:
            monkeypatch.setattr(Walk, "_hands_on", lambda _walk: False)
        model = load_fresh(folder, "fp32").model
        replace_conv1d(model)
        count: Counter[str] = Counter()
        first = next(name for name in plain_linear_layers(model) if ".0." in name)
        seen: Any = model.get_submodule(first)
        seen.register_forward_pre_hook(
            lambda _module, _inputs, count=count, first=first: count.update([first])
        )
        made.append(codes(model))
        ran.append(count[first])
    # Two passes of one window tell whether blocks hand on no more than their outputs.
    assert ran == [2 * WINDOWS + 2, 3 * WINDOWS]
    assert made[0].keys() == made[1].keys()
    for name, found in made[0].items():
        assert found.equal(made[1][name])


def test_blocks_that_share_more_than_their_outputs_are_read_as_a_whole() -> None:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, shared: list[torch.Tensor]) -> None:
            super().__init__()
            self.up = nn.Linear(16, 16)
            self.shared = shared

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.shared.append(values)
            made: torch.Tensor = values + self.up(values) + self.shared[0]
            return made

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared: list[torch.Tensor] = []
            self.embed = nn.Embedding(99, 16)
            self.layers = nn.ModuleList(Block(self.shared) for _ in range(3))

        def get_output_embeddings(self) -> None:
            return None

        def forward(self, input_ids: torch.Tensor, *, use_cache: bool) -> tuple[torch.Tensor]:
            assert not use_cache
            self.shared.clear()
            values = self.embed(input_ids)
            for layer in self.layers:
                values = layer(values)
            return (values,)

    torch.manual_seed(0)
    model: Any = Model().requires_grad_(requires_grad=False)
    layers: dict[str, Any] = {f"layers.{at}.up": block.up for at, block in enumerate(model.layers)}
    expected: list[torch.Tensor] = []
    model.layers[2].up.register_forward_pre_hook(lambda _module, seen: expected.append(seen[0]))
    for window in windows():
        model(input_ids=window, use_cache=False)
    *_, last = list(Walk(model, layers, windows()).blocks())
    seen: list[torch.Tensor] = []
    last.run(lambda _name, inputs: seen.append(inputs))
    assert len(seen) == WINDOWS
    for one, other in zip(seen, expected[:WINDOWS], strict=True):
        assert one.equal(other)
