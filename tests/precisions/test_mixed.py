"""Mixes by hand: each layer is that of its own precision, bit for bit, and is verified as such."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.spec import StaticBytes
from qbench.precisions import is_quantized, precisions, with_defaults
from qbench.precisions.inventory import inventory
from qbench.precisions.mixed.options import MixedOptions
from tests.precisions.tiny_cells import TinyCells, Variant, typed_options_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qbench.measures.loaded import LoadedModel

LLAMA = Variant("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True})
GPT2 = Variant("gpt2-tied", "gpt2", {"tied": True})
MIXABLE = [
    name
    for name, held in precisions().items()
    if is_quantized(with_defaults(name)) and held.unmixable(typed_options_of(name)) is None
]
KINDS = [
    next(name for name in MIXABLE if type(precisions()[name]) is kind)
    for kind in dict.fromkeys(type(precisions()[name]) for name in MIXABLE)
]
"""One precision of each family."""


def mixed(layers: dict[str, Any], **others: Any) -> dict[str, Any]:
    """The options of a mix as records have them."""
    return MixedOptions.model_validate({**others, "layers": layers}).model_dump(mode="json")


def measured_bytes(model: PreTrainedModel) -> StaticBytes:
    by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
    for held in inventory(model):
        by_kind[held.kind] += held.tensor.untyped_storage().nbytes()
    return StaticBytes(**by_kind)


def tensors_of(model: PreTrainedModel) -> dict[str, list[torch.Tensor]]:
    found: dict[str, list[torch.Tensor]] = {}
    for held in inventory(model):
        found.setdefault(held.module, []).append(held.tensor)
    return found


def the_bytes_are_those_of_the_arithmetic(loaded: LoadedModel) -> None:
    """Before and after a forward."""
    assert measured_bytes(loaded.model) == loaded.predicted
    with torch.inference_mode():
        loaded.model(input_ids=torch.tensor([[1, 2, 3]]))
    assert measured_bytes(loaded.model) == loaded.predicted


@pytest.mark.parametrize(
    ("first", "second", "variant"),
    [
        *((*pair, LLAMA) for pair in itertools.combinations(KINDS, 2)),
        *((*pair, GPT2) for pair in itertools.pairwise([*KINDS, KINDS[0]])),
    ],
    ids=str,
)
def test_any_two_kinds_lie_beside_each_other(
    first: str, second: str, variant: Variant, cells: TinyCells
) -> None:
    loaded = cells.load(variant, "mixed", **mixed({"*.mlp.*": second, "*": first}))
    found = loaded.verification
    assert found.faults == ()
    the_bytes_are_those_of_the_arithmetic(loaded)
    layers = found.details["held_in"]
    assert {name for name, label in layers.items() if label == second} == {
        name for name in layers if ".mlp." in name
    }
    assert set(layers.values()) == {first, second}
    members = found.details["members"]
    assert sum(one["layers"] for one in members.values()) == len(layers)
    kinds = measured_bytes(loaded.model)
    assert sum(one["bytes"] for one in members.values()) == kinds.linear + kinds.quantization_state
    assert found.details["quantized_modules"] == len(layers)


@pytest.mark.parametrize("name", MIXABLE)
def test_a_layer_is_that_of_its_precision(name: str, cells: TinyCells) -> None:
    one = cells.load(LLAMA, "mixed", **mixed({"*.1.*": name})).model
    whole = cells.load(
        LLAMA, name, **precisions()[name].in_mix(typed_options_of(name)).model_dump()
    ).model
    plain = cells.load(LLAMA, "bf16").model
    found, own, other = map(tensors_of, (one, whole, plain))
    for place, tensors in found.items():
        expected = own[place] if ".1." in place else other[place]
        assert len(tensors) == len(expected)
        assert all(map(torch.equal, tensors, expected)), place


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        *itertools.permutations([*KINDS, "bf16"], 2),
        *(
            pair
            for pair in itertools.permutations(MIXABLE, 2)
            if type(precisions()[pair[0]]) is type(precisions()[pair[1]])
            # Zero points that are all 0 are those of a grid that needs none.
            and pair[0].removesuffix("-asym") != pair[1]
        ),
    ],
)
def test_a_layer_in_another_format_than_its_own_is_a_fault(
    asked: str, held: str, cells: TinyCells
) -> None:
    model = cells.load(LLAMA, "mixed", **mixed({"*.mlp.*": held, "*": "bf16"})).model
    own = cells.load(LLAMA, "mixed", **mixed({"*.mlp.*": asked, "*": "bf16"})).model
    options = MixedOptions.model_validate({"layers": {"*.mlp.*": asked, "*": "bf16"}})
    found = precisions()["mixed"].verify(model, options)
    for name in found.details["held_in"]:
        told = any(name in fault for fault in found.faults)
        assert told is not same(model.get_submodule(name), own.get_submodule(name)), name


def same(held: Any, asked: Any) -> bool:
    """Whether two layers hold the same and compute the same of it."""
    ids = torch.randn(2, 3, held.in_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.equal(held(ids.bfloat16()), asked(ids.bfloat16()))
