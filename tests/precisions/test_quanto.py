"""quanto: its layers here are those of its own package, and hold in inference mode."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from qbench.precisions import precisions
from qbench.precisions.quanto.format import Codes, group_of, layer_bytes
from qbench.precisions.quanto.layers import naive_weight, quantized_layer

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = ["quanto-int8", "quanto-fp8", "quanto-int4", "quanto-int2"]


def plain(inputs: int, outputs: int) -> nn.Linear:
    made = torch.Generator().manual_seed(inputs)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data = torch.randn(outputs, inputs, generator=made) * 0.02
    return layer.requires_grad_(requires_grad=False)


@pytest.fixture
def unpacked_as_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are unpacked as quanto defines it; on a CPU it would compile an operation first."""
    from optimum.quanto.tensor.packed import PackedTensor

    def unpack(packed: Any) -> torch.Tensor:
        places = range(0, 8, packed._bits)
        codes = torch.cat([packed._data >> place for place in places])
        return codes[: packed.shape[0]] & (2**packed._bits - 1)

    monkeypatch.setattr(PackedTensor, "unpack", unpack)


@pytest.mark.parametrize("inputs", [64, 256, 96, 160])
@pytest.mark.parametrize("name", FORMATS)
def test_it_multiplies_as_a_layer_that_quanto_made(
    name: str, inputs: int, unpacked_as_defined: None
) -> None:
    it_multiplies_as_a_layer_that_quanto_made(name, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quanto-int4", "quanto-int2"])
def test_it_multiplies_as_a_layer_that_quanto_made_and_compiled(name: str) -> None:
    it_multiplies_as_a_layer_that_quanto_made(name, 160)


def it_multiplies_as_a_layer_that_quanto_made(name: str, inputs: int) -> None:
    from optimum.quanto import freeze, qtypes, quantize

    held: Any = precisions()[name]
    layer = plain(inputs, 48)
    theirs = nn.Sequential(copy.deepcopy(layer))
    quantize(theirs, weights=qtypes[held.codes.qtype])
    freeze(theirs)
    ours = quantized_layer(layer, held.codes)
    given = torch.randn(3, inputs, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(given)
        torch.testing.assert_close(theirs[0].weight.dequantize(), ours.dequantize())
        torch.testing.assert_close(ours(given), expected)
    with torch.inference_mode():
        made = ours(given.clone())
    torch.testing.assert_close(made.clone(), expected)
    torch.testing.assert_close(naive_weight(ours, slice(0, 48)), ours.dequantize())


@pytest.mark.parametrize("inputs", [40, 152])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_that_are_no_multiple_of_16_are_not_read_past_their_end(
    name: str, inputs: int
) -> None:
    layer = plain(inputs, 16).bfloat16()
    ours = quantized_layer(layer, _typed(name).codes)
    given = torch.randn(3, inputs, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = given.float() @ naive_weight(ours, slice(0, 16)).T + layer.bias.float()
    with torch.inference_mode():
        torch.testing.assert_close(ours(given).float(), expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_the_nearest_of_the_grid(name: str) -> None:
    """By the definition: scales of the extremes, so that no error is above half a step."""
    held: Any = precisions()[name]
    layer = plain(256, 16)
    weight = layer.weight.data
    error = (naive_weight(quantized_layer(layer, held.codes), slice(0, 16)) - weight).abs()
    if held.codes.qtype == "qfloat8_e4m3fn":
        least = weight.abs().amax(dim=1, keepdim=True) / 448 * 2**-9
        assert bool((error <= torch.maximum(weight.abs() / 16, least) * 1.0001).all())
        return
    groups = weight.reshape(-1, 128) if held.codes.shifted else weight
    steps = 2**held.codes.bits - 1
    low, high = groups.amin(dim=1), groups.amax(dim=1)
    step = (high - low) / steps if held.codes.shifted else groups.abs().amax(dim=1) / 127
    assert bool((error.reshape(groups.shape) <= step[:, None] / 2 * 1.001).all())


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_zeros_stays_zeros(name: str) -> None:
    layer = plain(256, 16)
    layer.weight.data[3] = 0.0
    made = naive_weight(quantized_layer(layer, _typed(name).codes), slice(0, 16))
    assert made[3].tolist() == [0.0] * 256
    assert bool(made[4].any())
    assert bool(made.isfinite().all())


@pytest.mark.parametrize(
    ("inputs", "group"), [(64, None), (128, None), (256, 128), (160, 32), (96 * 3, 96), (200, None)]
)
def test_groups_are_those_that_quanto_takes(inputs: int, group: int | None) -> None:
    from optimum.quanto import QLinear, qint4

    made = QLinear.from_module(plain(inputs, 32), weights=qint4)
    assert made.weight_group_size == group_of(inputs) == group


def test_bits_a_weight_of_a_large_layer() -> None:
    weights = 4096 * 11008
    found = {
        name: 8 * sum(layer_bytes(held.codes, 4096, 11008, 2)) / weights
        for name in FORMATS
        if (held := _typed(name)) is not None
    }
    by_row = 8 + 16 / 11008
    assert found == pytest.approx(
        {
            "quanto-int8": by_row,
            "quanto-fp8": by_row,
            "quanto-int4": 4 + 2 * 16 / 128,
            "quanto-int2": 2 + 2 * 16 / 128,
        }
    )


def _typed(name: str) -> Any:
    return precisions()[name]


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_pass_as_through_the_weights_that_codes_stand_for(name: str) -> None:
    layer = quantized_layer(plain(256, 32), _typed(name).codes)
    grads = []
    made: list[Callable[[torch.Tensor], torch.Tensor]] = [
        layer,
        lambda given: given @ naive_weight(layer, slice(0, 32)).T + layer.bias,
    ]
    for apply in made:
        given = torch.randn(4, 256, generator=torch.Generator().manual_seed(2), requires_grad=True)
        apply(given).pow(2).sum().backward()
        assert given.grad is not None
        grads.append(given.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)


def test_another_format_is_a_fault(tmp_path: Any) -> None:
    from qbench.core.checkpoint import Checkpoint
    from tests.precisions.tiny_cells import typed_options_of
    from tests.tiny_models import make_tiny_model

    folder = make_tiny_model(tmp_path, "llama", layers=1, tokenizer=False)
    options = typed_options_of("quanto-int4")
    model = precisions()["quanto-int4"].load(Checkpoint(folder, "cpu"), options)
    found = precisions()["quanto-int2"].verify(model, options)
    assert len(found.faults) == 7
    assert "qint4" in found.faults[0]
    assert isinstance(_typed("quanto-int4").codes, Codes)
