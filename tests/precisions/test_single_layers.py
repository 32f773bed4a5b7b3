"""One layer at a time, as a mix holds it: the same as in a model that is held so as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.checkpoint import Checkpoint
from qbench.precisions import is_quantized, precisions, with_defaults
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.inventory import inventory
from qbench.precisions.precision import Precision
from qbench.sources.models.resolve import fetch_model
from tests.precisions.tiny_cells import TinyCells, Variant, resolve, typed_options_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

VARIANTS = [
    Variant("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
]
MIXABLE = [
    name
    for name, held in precisions().items()
    if is_quantized(with_defaults(name)) and held.unmixable(typed_options_of(name)) is None
]
QUICK = {type(precisions()[name]): name for name in reversed(MIXABLE)}.values()
"""The first of each family; the others are with the slow tests."""


def rest_of(name: str, options: Any) -> str:
    """The type of what is not quantized."""
    products = precisions()[name].products(options)
    return str(options.dtype) if products is None else products.rest


def tensors_of(model: PreTrainedModel) -> list[tuple[str, str, torch.Tensor]]:
    return [(held.module, held.kind, held.tensor) for held in inventory(model)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in MIXABLE],
)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_layers_held_one_by_one_are_those_of_the_whole(
    name: str, variant: Variant, cells: TinyCells
) -> None:
    held = precisions()[name]
    options: Any = held.in_mix(typed_options_of(name))
    whole = cells.load(variant, name, **options.model_dump())

    def quantize(layer_name: str, layer: nn.Linear) -> nn.Module | None:
        return held.hold_layer(layer_name, layer, options)

    checkpoint = Checkpoint(fetch_model(resolve(cells.folder(variant))), "cpu")
    apart = load_layer_by_layer(checkpoint, dtype=rest_of(name, options), quantize=quantize)
    for (place, kind, found), (other, other_kind, expected) in zip(
        tensors_of(apart), tensors_of(whole.model), strict=True
    ):
        assert (place, kind) == (other, other_kind)
        assert found.dtype == expected.dtype, place
        assert torch.equal(found, expected), place
    assert not held.verify(apart, options).faults
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        assert torch.equal(apart(input_ids=ids).logits, whole.model(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_floating_type_leaves_the_layer_as_it_is(name: str) -> None:
    layer = torch.nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    held, options = precisions()[name], typed_options_of(name)
    assert held.unmixable(options) is None
    assert held.hold_layer("some.layer", layer, options) is None
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", ["w8a8-static", "w8a8-smooth", "stored"])
def test_what_sees_a_whole_model_says_so(name: str) -> None:
    reason = precisions()[name].unmixable(typed_options_of(name))
    assert reason is not None
    assert name in reason


def test_what_knows_no_single_layer_says_so() -> None:
    class Whole(Precision):
        name = "whole"
        summary = "a format of whole models"

        storage = load = verify = None  # type: ignore[assignment]

    assert "whole models" in (Whole().unmixable(Whole.options()) or "")
