"""Packed 4-bit codes: byte for byte where CUDA's kernel wants them, weights as simulated."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from qbench.core.spec import Item
from qbench.finetune.lora import LORA
from qbench.finetune.lora_options import LoraOptions
from qbench.measures.footprint import FOOTPRINT
from qbench.measures.weight_error import WEIGHT_ERROR
from qbench.precisions import precisions
from qbench.precisions.emulated import held_wider
from qbench.precisions.integer.options import IntegerOptions
from qbench.precisions.integer.packed import unpacked, why_simulated
from qbench.precisions.layer_weights import held_weight
from qbench.precisions.verification import linear_layers
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel

LLAMA = Variant("llama", "llama")
DEFINITION = Path(__file__).parents[1] / "gpu_standin/standin/gpu_int4.py"


@pytest.fixture(scope="module", autouse=True)
def kernel() -> Any:
    """CUDA's operators, by their definition, on the CPU."""
    spec = importlib.util.spec_from_file_location("gpu_int4", DEFINITION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
    return module


def packed(cells: TinyCells, name: str, **options: Any) -> LoadedModel:
    return cells.load(LLAMA, name, kernel="packed", **options)


def metrics(loaded: LoadedModel) -> dict[str, float | None]:
    outcome = FOOTPRINT.measure(loaded, Item(measurement="footprint", slug="model"))
    assert outcome.warnings == ()  # the bytes are those of the arithmetic
    return {one.name: one.value for one in outcome.metrics}


def test_each_code_comes_back_from_its_bits(kernel: Any) -> None:
    codes = torch.randint(0, 16, (24, 256), generator=torch.Generator().manual_seed(0))
    pairs = ((codes[:, ::2] << 4) | codes[:, 1::2]).to(torch.uint8)
    held = kernel.to_int4pack(pairs, 8)
    assert tuple(held.shape) == (3, 2, 32, 4)
    assert torch.equal(unpacked(held).long(), codes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym", "int4-g32-gptq"])
def test_the_weights_are_those_of_the_simulated_form(name: str, cells: TinyCells) -> None:
    calibration = {"calibration_windows": 2, "calibration_window": 32} if "gptq" in name else {}
    found = packed(cells, name, **calibration)
    simulated = cells.load(LLAMA, name, **calibration)
    others = dict(linear_layers(simulated.model))
    for layer_name, layer in linear_layers(found.model):
        held: Any = layer.weight
        other: Any = others[layer_name].weight
        codes = unpacked(held.qdata)[: layer.out_features, : layer.in_features]
        # Beside the head all layers are packed.
        assert torch.equal(codes.to(torch.int8) - 8, other.qdata)
        rows = slice(None, layer.out_features)
        groups = layer.in_features // 32
        constants = held.scale_and_zero.transpose(0, 1)[rows, :groups]
        assert torch.equal(constants[..., 0], other.scale)
        zeros = -other.zero_point.to(torch.bfloat16) * other.scale
        torch.testing.assert_close(constants[..., 1], zeros, rtol=0, atol=0)
        expected = other.dequantize().float()
        torch.testing.assert_close(
            held_weight(layer).float(), expected, rtol=1e-2, atol=float(expected.abs().max()) / 100
        )
    assert found.verification.faults == ()
    details = found.verification.details
    assert details["kernel"] == "packed (torchao, tinygemm)"
    assert details["quantized_modules"] == 14
    assert details["largest_output_error"] < 0.01
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        logits, expected = (one.model(input_ids=ids).logits for one in (found, simulated))
    assert float((logits - expected).norm() / expected.norm()) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym"])
def test_it_is_written_as_the_simulated_form_is(
    name: str, cells: TinyCells, tmp_path: Path
) -> None:
    held, files = precisions()[name], []
    for kernel in ("packed", "simulated"):
        model = load_fresh(cells.folder(LLAMA), name, kernel=kernel).model
        packed_form = held.forms(typed_options_of(name, kernel=kernel))[0]
        packed_form.write(model, tmp_path / kernel)
        files.append(load_file(tmp_path / kernel / "model.safetensors"))
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(one, files[1][key]) for key, one in files[0].items())


def test_bytes_by_hand(cells: TinyCells) -> None:
    found = metrics(packed(cells, "int4-g32"))
    # Widths of 64 and 128 are padded to 1,024 columns.
    rows = 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    assert found["memory.static.linear"] == rows * 1024 / 2
    assert found["memory.static.quantization_state"] == rows * 1024 / 32 * 4
    assert "bits_per_weight.nominal" not in found  # nothing is held wider than it is
    assert found["weights"] == metrics(cells.load(LLAMA, "int4-g32"))["weights"]


def test_of_a_7b_nothing_is_padded() -> None:
    from qbench.cli.fit_table import find_model

    shape = find_model("Mistral-7B-v0.1").shape
    assert shape is not None
    linear = sum(one.numel for one in shape.tensors if one.role == "linear")
    for group in (32, 128):
        options = IntegerOptions(bits=4, granularity="group", group=group, kernel="packed")
        found = precisions()["integer"].storage(shape, options)
        assert (found.linear, found.quantization_state) == (linear / 2, linear / group * 4)


def test_an_error_of_weights_is_measured(cells: TinyCells) -> None:
    values = []
    for kind in ("packed", "simulated"):
        loaded = cells.load(LLAMA, "int4-g32", kernel=kind)
        item = Item(measurement="weight_error", slug="linear")
        outcome = WEIGHT_ERROR.measure(loaded, item)
        values.append({one.name: one.value for one in outcome.metrics})
    assert values[0]["weight_error.relative"] == pytest.approx(
        values[1]["weight_error.relative"], rel=0.01
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("simulated", "though the kernel is packed"),
        ("zero", "holds zeros other than 0"),
        ("short", "bytes of codes and constants"),
    ],
)
def test_a_layer_that_is_not_what_it_should_be_is_a_fault(
    fault: str, words: str, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path, "llama")
    loaded = load_fresh(folder, "int4-g32", kernel="packed")
    layer: Any = dict(linear_layers(loaded.model))["model.layers.1.mlp.up_proj"]
    if fault == "simulated":
        other = load_fresh(folder, "int4-g32")
        layer.weight = dict(linear_layers(other.model))["model.layers.1.mlp.up_proj"].weight
    elif fault == "zero":
        layer.weight.scale_and_zero[0, 3, 1] = 0.5
    else:
        layer.weight.scale_and_zero = layer.weight.scale_and_zero[:1]
    options = typed_options_of("int4-g32", kernel="packed")
    (found,) = precisions()["int4-g32"].verify(loaded.model, options).faults
    assert "model.layers.1.mlp.up_proj" in found
    assert words in found


def test_a_wrong_code_is_a_fault(tmp_path: Path) -> None:
    """What the kernel reads is held against the bits, and a bit turned there is in both."""
    loaded = load_fresh(make_tiny_model(tmp_path, "llama"), "int4-g32", kernel="packed")
    layer: Any = dict(linear_layers(loaded.model))["model.layers.0.mlp.up_proj"]
    before = held_weight(layer).clone()
    layer.weight.qdata[0, 0, 0, 0] ^= 1
    after = held_weight(layer)
    changed = (before != after).nonzero().tolist()
    assert changed == [[0, 0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"group": 64}, None),
        ({"mapping": "asymmetric"}, None),
        ({"weights": "gptq"}, None),
        ({"bits": 3}, "4 bits in groups of 32, 64, 128, 256"),
        ({"group": 16}, "4 bits in groups of 32, 64, 128, 256"),
        ({"granularity": "channel", "group": None}, "4 bits in groups"),
        ({"weights": "awq"}, "not taken with awq"),
        ({"dtype": "fp16"}, "multiplies bf16 alone, and dtype is fp16"),
        ({"activations": "dynamic"}, "takes inputs as they are"),
        ({"kernel": "simulated"}, "was asked for"),
    ],
)
def test_where_it_is_taken(options: dict[str, Any], words: str | None) -> None:
    given = IntegerOptions(**{"bits": 4, "granularity": "group", "group": 32, **options})
    why = why_simulated(given)
    assert (why is None) if words is None else (words in str(why))
    integer = precisions()["integer"]
    expected = {} if words else {"kernel": "packed"}
    assert integer.for_device(given, "cuda", bf16=True) == expected
    assert integer.for_device(given, "cuda", bf16=False) == {}
    assert integer.for_device(given, "cpu", bf16=True) == {}
    # What is asked for must be possible.
    if words and "kernel" not in options:
        with pytest.raises(ValidationError, match="kernel: packed"):
            IntegerOptions(**{**given.model_dump(), "kernel": "packed"})


def test_on_a_cpu_it_is_refused_with_what_to_do() -> None:
    options = typed_options_of("int4-g32", kernel="packed")
    held = precisions()["int4-g32"]
    assert "leave kernel out" in str(held.misplaced(options, "cpu", bf16=True))
    assert "leave kernel out" in str(held.misplaced(options, "cuda", bf16=False))
    assert held.misplaced(options, "cuda", bf16=True) is None
    assert held.misplaced(typed_options_of("int4-g32"), "cpu", bf16=True) is None


def test_its_times_are_those_of_the_format_and_it_is_not_trained_on(cells: TinyCells) -> None:
    held = precisions()["int4-g32"]
    assert held.unlike_served(typed_options_of("int4-g32", kernel="packed"), "cuda") is None
    assert held.unlike_served(typed_options_of("int4-g32"), "cpu") == held_wider()
    assert held.unlike_served(typed_options_of("int4-g32"), "cuda") is not None
    precision = packed(cells, "int4-g32").cell.precision
    assert "no gradient" in str(LORA.conflicts(precision, LoraOptions()))


def test_keys_of_earlier_records_stay() -> None:
    assert "kernel" not in typed_options_of("int4-g32").model_dump()
    assert typed_options_of("int4-g32", kernel="packed").model_dump()["kernel"] == "packed"
    plain = typed_options_of("int4-g32", kernel="packed").model_dump()
    assert precisions()["int4-g32"].options.model_validate(plain).model_dump() == plain
