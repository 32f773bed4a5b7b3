"""Mixes by hand: each layer is that of its own precision, bit for bit, and is verified as such."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.spec import StaticBytes
from qbench.measures.kernels.layers import layer_sizes
from qbench.precisions import is_quantized, precisions, with_defaults
from qbench.precisions.inventory import inventory
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.verification import linear_layers
from qbench.running.loading import load
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import TinyCells, Variant, make_job, typed_options_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.mark.parametrize("name", KINDS)
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


def of_two_kinds(names: list[str]) -> Iterator[Any]:
    """Any two; slow but for each with the next."""
    following = set(itertools.pairwise([*names, names[0]]))
    for pair in itertools.permutations(names, 2):
        yield pytest.param(*pair, marks=[] if pair in following else [pytest.mark.slow])


def near_in_kind() -> Iterator[Any]:
    """Each precision with the two that follow it in its family; slow but for the first of each."""
    for kind in KINDS:
        family = [name for name in MIXABLE if type(precisions()[name]) is type(precisions()[kind])]
        for at, name in enumerate(family):
            others = {family[(at + step) % len(family)] for step in (1, 2)} - {name}
            # Zero points that are all 0 are those of a grid that needs none.
            marks = [] if at == 0 else [pytest.mark.slow]
            yield from (
                pytest.param(name, one, marks=marks)
                for one in sorted(others)
                if name != f"{one}-asym"
            )


@pytest.mark.parametrize(("asked", "held"), [*of_two_kinds([*KINDS, "bf16"]), *near_in_kind()])
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


def test_layers_that_a_member_leaves_are_told(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "mixed", **mixed({"*.mlp.*": "int4-g128", "*": "nf4"}))
    found = loaded.verification
    assert found.faults == ()
    the_bytes_are_those_of_the_arithmetic(loaded)
    left = [name for name in found.details["held_in"] if name.endswith(("gate_proj", "up_proj"))]
    assert found.details["left_out"] == [*left, "lm_head"]
    assert {found.details["held_in"][name] for name in left} == {"bf16"}
    members = found.details["members"]
    assert {label: one["layers"] for label, one in members.items()} == {
        "int4-g128": 2,
        "nf4": 8,
        "bf16": 4,
    }
    assert members["int4-g128"]["left_out"] == left
    assert members["bf16"]["bits_per_weight"] == 16
    (by_group, left_out) = found.warnings
    assert by_group.startswith("int4-g128: group 128 does not divide the width of 4 linear layers")
    assert left_out.startswith("4 weights beside embeddings and head were left unquantized")


def test_patterns_that_decide_nothing_are_told(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "mixed", **mixed({"*": "nf4", "*.down_proj": "int8"}))
    (warning,) = loaded.verification.warnings
    assert warning.startswith("*.down_proj: no layer is held by these patterns")


def test_the_numbers_of_each_format_are_those_of_its_layers(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "mixed", **mixed({"*.down_proj": "int8", "*": "bf16"}))
    told = loaded.verification.details["members"]["int8"]
    rows, width = 64, 128
    assert told["weights"] == 2 * rows * width
    assert told["bytes"] == 2 * (rows * width + 4 * rows)  # an fp32 scale a row
    assert told["bits_per_weight"] == 8 + 32 / width
    shape = loaded.resolved.shape
    assert shape is not None
    assert loaded.verification.details["quantized_share"] == 2 * rows * width / shape.weights


def test_packed_bytes_are_the_sum_of_the_members(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "mixed", **mixed({"*.mlp.*": "int4-g32", "*": "nf4"}))
    shape, predicted = loaded.resolved.shape, loaded.predicted
    assert shape is not None
    assert predicted is not None
    options = MixedOptions.model_validate(loaded.cell.precision.options)
    weights = 2 * 3 * 64 * 128
    # Codes of 4 bits in a byte each, and zero points of a byte which are all 0.
    saved = weights / 2 + weights / 32
    assert precisions()["mixed"].packed_bytes(shape, options) == predicted.total - saved
    nominal = loaded.verification.details["nominal_linear_bytes"]
    assert nominal == predicted.linear + predicted.quantization_state - saved
    plain = MixedOptions.model_validate({"layers": {"*": "nf4"}})
    assert precisions()["mixed"].packed_bytes(shape, plain) is None


def test_each_layer_is_dequantized_by_its_own_member(cells: TinyCells) -> None:
    held = {"*.q_proj": "hqq4", "*.k_proj": "gguf-q8_0", "*.mlp.*": "int8-wo", "*": "nf4"}
    model = cells.load(LLAMA, "mixed", **mixed(held)).model
    plain = cells.load(LLAMA, "bf16").model
    for name, layer in linear_layers(model):
        weight = plain.get_submodule(name).weight.float()
        found = precisions()["mixed"].weights(layer).float()
        assert 0 < float((found - weight).norm() / weight.norm()) < 0.2, name


def test_formats_of_the_same_bytes_are_timed_apart(cells: TinyCells) -> None:
    """A byte a weight and an fp32 scale a row are LLM.int8's as they are fp8's."""
    held = {"*.0.*.q_proj": "int8", "*.1.*.q_proj": "fp8", "*": "bf16"}
    model = cells.load(LLAMA, "mixed", **mixed(held)).model
    sizes = [size.names for size in layer_sizes(model)]
    assert ("model.layers.0.self_attn.q_proj",) in sizes
    assert ("model.layers.1.self_attn.q_proj",) in sizes


@pytest.mark.parametrize("variant", [LLAMA, GPT2], ids=str)
def test_the_same_with_random_weights(variant: Variant, cells: TinyCells) -> None:
    folder = cells.folder(variant)
    model = resolve_model(parse_model(f"random:{folder}", base=folder))
    job = make_job(model, "mixed", **mixed({"*.mlp.*": "int8", "*": "hqq4"}))
    loaded = load(job, lambda phase: None)
    assert loaded.verification.faults == ()
    the_bytes_are_those_of_the_arithmetic(loaded)
