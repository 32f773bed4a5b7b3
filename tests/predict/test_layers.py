"""The highest moment of many layers, made of few, against going through every layer."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from qbench.precisions.products import Products, floating
from qbench.predict.activations import (
    activation_bytes,
    go_through_step,
    predict_activations,
)
from qbench.predict.layers import highest_moment
from qbench.predict.shapes import DecoderShape, TrainingSetup
from qbench.predict.tape import GRADIENTS, LAYERS, TRANSIENT, Ledger, Storage

if TYPE_CHECKING:
    from collections.abc import Callable

_LAYERS = 7
_ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "products": floating("fp32")},
    "full-bf16": {"method": "full", "products": floating("bf16"), "compute": "fp32"},
    "lora": {"products": floating("bf16")},
    "lora-wide": {
        "products": floating("fp32"),
        "rank": 512,
        "adapter_dropout": True,
        "padded": True,
    },
    "lora-int8": {"products": Products("outliers", "bf16", "bf16")},
    "lora-4bit": {"products": Products("4bit", "bf16", "bf16"), "by_definition": True},
    "lora-eager": {
        "products": Products("4bit", "fp32", "bf16"),
        "attention": "eager",
        "optimizer": "8bit",
    },
}


def _shape(model_type: str, vocabulary: int) -> DecoderShape:
    rotary = model_type == "llama"
    return DecoderShape(
        model_type=model_type,
        hidden=64,
        intermediate=160,
        layers=_LAYERS,
        heads=8,
        kv_heads=2 if rotary else 8,
        head_dim=8,
        vocabulary=vocabulary,
        positions=0 if rotary else 128,
        tied=not rotary,
        attention_bias=not rotary,
        residual_dropout=not rotary,
        attention_dropout=model_type == "opt",
    )


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("arm", _ARMS)
def test_no_byte_differs_from_going_through_every_layer(model_type: str, arm: str) -> None:
    for checkpointing, (accumulate, device), (vocabulary, tokens) in product(
        (False, True), ((1, "cuda"), (2, "cpu")), ((50, 96), (5000, 5))
    ):
        shape = _shape(model_type, vocabulary)
        setup = TrainingSetup(
            **{
                "batch": 2,
                "tokens": tokens,
                "method": "lora",
                "rank": 4,
                "targets": frozenset(name.rpartition(".")[2] for name in shape.linears),
                "checkpointing": checkpointing,
                "accumulate": accumulate,
                "device": device,
                **_ARMS[arm],
            }
        )
        ledger = Ledger()
        gradients = go_through_step(ledger, shape, setup)
        predicted = predict_activations(shape, setup)
        assert activation_bytes(shape, setup) == predicted.total
        found = asdict(predicted)
        del found["per_layer"]
        at_peak = dict(ledger.peak)
        at_peak["gradients_to_come"] = at_peak.pop(GRADIENTS, 0) - gradients
        assert {name: size for name, size in found.items() if size} == {
            name: size for name, size in at_peak.items() if size
        }


def _toy(first: int, between: int, last: int, held: int, end: int) -> Callable[[Ledger, int], int]:
    """A step of which each layer takes something for a moment, and leaves something."""

    def step(ledger: Ledger, layers: int) -> int:
        kept = []
        for layer in range(layers):
            ledger.begin(layer)
            size = first if layer == 0 else last if layer == layers - 1 else between
            Storage(ledger, TRANSIENT, size)
            kept.append(Storage(ledger, LAYERS, held))
        ledger.begin(None)
        Storage(ledger, GRADIENTS, end)
        return held * layers

    return step


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ((500, 1, 1, 1, 1), {TRANSIENT: 500}),
        # in the last but one: what is kept of the 98 before
        ((1, 500, 1, 2, 1), {TRANSIENT: 500, LAYERS: 98 * 2}),
        ((1, 1, 500, 2, 1), {TRANSIENT: 500, LAYERS: 99 * 2}),
        ((1, 1, 1, 2, 500), {GRADIENTS: 500, LAYERS: 100 * 2}),
        # highest in the first at four layers, and at the end at a hundred
        ((500, 1, 1, 9, 30), {GRADIENTS: 30, LAYERS: 100 * 9}),
    ],
)
def test_the_highest_moment_of_a_hundred_layers_by_hand(
    sizes: tuple[int, int, int, int, int], parts: dict[str, int]
) -> None:
    highest, gradients = highest_moment(_toy(*sizes), 100)
    assert {part: size for part, size in highest.parts.items() if size} == parts
    assert highest.total == sum(parts.values())
    assert gradients == 100 * sizes[3]


def test_layers_that_do_not_repeat_are_not_taken_for_such() -> None:
    def step(ledger: Ledger, layers: int) -> int:
        for layer in range(layers):
            ledger.begin(layer)
            for _ in range(layer):
                Storage(ledger, LAYERS, 1)
        return 0

    with pytest.raises(ValueError, match="argument 2 is"):
        highest_moment(step, 100)


def test_a_deep_model_is_gone_through_as_two_shallow_ones() -> None:
    asked = []
    toy = _toy(1, 2, 3, 4, 5)

    def step(ledger: Ledger, layers: int) -> int:
        asked.append(layers)
        return toy(ledger, layers)

    highest_moment(step, 800)
    assert asked == [3, 4]
