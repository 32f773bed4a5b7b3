"""Final states from a block on are those of a whole forward, or whole forwards run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.measures.quality.head import find_head
from qbench.measures.quality.windows import Window
from qbench.measures.sensitivity.options import SensitivityParams
from qbench.measures.sensitivity.replay import Replay, find_blocks
from qbench.measures.sensitivity.table import TableMaker
from qbench.precisions.mixed.members import format_of
from qbench.sources.data.texts import ResolvedText
from tests.tiny_configs import tiny_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

_SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neox": {**_SMALL, "intermediate_size": 64},
    "mamba": {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
    "gpt_neo": {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "max_position_embeddings": 64,
    },
}
EXACT = ("llama", "gemma2", "gpt2", "opt", "mixtral", "deepseek_v3", "gpt_oss", "gpt_neox", "mamba")
KEPT = ResolvedText(name="t", source="t", kind="file", location="t", fingerprint="t")


def make(architecture: str) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    stated = OTHERS.get(architecture) or tiny_config(architecture)
    config = {name: one for name, one in stated.items() if one is not None} | {
        "model_type": architecture
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    made: PreTrainedModel = model.requires_grad_(requires_grad=False)
    return made


def groups() -> list[torch.Tensor]:
    found = torch.arange(1, 37).reshape(3, 12)
    return [found[:2], found[2:]]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("architecture", EXACT)
def test_states_from_each_block_are_those_of_a_whole_forward(architecture: str) -> None:
    model = make(architecture)
    head = find_head(model, groups()[0][:1])
    replay = Replay(head, groups())
    assert replay.refused is None
    assert len(replay.names) > 2
    whole = [head.states(ids) for ids in groups()]
    # Forwards, and back again.
    for block in (*range(len(replay.names)), 1, 0):
        replay.go_to(block)
        assert replay.start == block
        found = [replay.states(index, ids) for index, ids in enumerate(groups())]
        assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    assert replay.inexact == []
    assert not any("forward" in vars(block) for block in find_blocks(model).values())


def test_what_comes_before_a_block_is_not_run() -> None:
    model = make("llama")
    replay = Replay(find_head(model, groups()[0][:1]), groups())
    ran: list[int] = []
    for index, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    replay.go_to(4)
    ran.clear()
    replay.states(0, groups()[0])
    assert ran == [4, 5]


def test_blocks_that_hand_on_more_are_run_as_a_whole() -> None:
    model = make("gpt_neo")
    head = find_head(model, groups()[0][:1])
    replay = Replay(head, groups())
    assert "more than the states" in str(replay.refused)
    replay.go_to(2)
    assert replay.start == 0
    assert torch.equal(replay.states(1, groups()[1]), head.states(groups()[1]))


def test_a_block_that_depends_on_what_another_did_is_found() -> None:
    """What the first block computes inside reaches the third past the states."""
    model = make("llama")
    inside: dict[str, torch.Tensor] = {}
    layers = model.model.layers
    layers[0].mlp.register_forward_hook(lambda _, __, out: inside.update(mlp=out))
    layers[2].mlp.register_forward_hook(lambda _, __, out: out + inside.pop("mlp", 0.0))
    head = find_head(model, groups()[0][:1])
    whole = [head.states(ids) for ids in groups()]
    replay = Replay(head, groups())
    for block in range(len(replay.names)):
        replay.go_to(block)
        found = [replay.states(index, ids) for index, ids in enumerate(groups())]
        assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True)), block
    assert replay.inexact == ["model.layers.1", "model.layers.2"]


def test_a_table_made_of_whole_forwards_is_the_same() -> None:
    model = make("llama")
    head = find_head(model, groups()[0][:1])
    windows = [Window(tuple(ids.tolist()), 1, 0) for group in groups() for ids in group]
    reference = torch.cat([head.states(ids)[:, :-1].flatten(0, 1) for ids in groups()])
    params = SensitivityParams(
        text=KEPT, window=12, limit=3, batch=2, by="layer", rest="fp32",
        formats=(format_of("int8-wo", "fp32"),),
    )  # fmt: skip
    parts: list[tuple[int, int]] = []

    def told(done: int, of: int) -> None:
        parts.append((done, of))

    found = TableMaker(head, windows, reference, 40, params, told).make()
    assert found.details["blocks_run"] < 6 * found.details["passes"]
    assert parts == [(at, 42) for at in range(42)]
    # With something handed on past the states, which changes nothing.
    model.model.layers[1].register_forward_hook(lambda _, __, out: (out, torch.zeros(1)))
    model.model.layers[2].register_forward_pre_hook(
        lambda _, args: (args[0][0] if isinstance(args[0], tuple) else args[0], *args[1:])
    )
    whole = TableMaker(head, windows, reference, 40, params, told).make()
    assert whole.details["blocks_run"] == 6 * whole.details["passes"]
    assert whole.details["whole_forwards"] is not None
    assert whole.table == found.table
