"""Integer precisions: their codes by the formulas, their bytes by hand, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from qbench.core.spec import Item, PrecisionRef
from qbench.finetune import methods
from qbench.finetune.lora import LORA
from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.qat.qat import QatOptions
from qbench.measures.footprint import FOOTPRINT
from qbench.measures.weight_error import WEIGHT_ERROR
from qbench.precisions import options_of, precisions
from qbench.precisions.integer.integer import Integer
from qbench.precisions.integer.options import SHORT_NAMES, IntegerOptions
from qbench.precisions.layer_weights import held_weight
from qbench.precisions.verification import linear_layers
from tests.precisions.naive_integers import checkpoint_weight, quantize
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel

LLAMA = Variant("llama", "llama")
GPT2 = Variant("gpt2", "gpt2")
BLOCKS = {
    "tensor": lambda shape: shape,
    "channel": lambda shape: (1, shape[1]),
    "group": lambda shape: (1, 16),
}


def layer_of(loaded: LoadedModel, name: str) -> Any:
    return dict(linear_layers(loaded.model))[name]


def metric(loaded: LoadedModel, measurement: Any, name: str) -> float:
    outcome = measurement.measure(loaded, Item(measurement=measurement.name, slug="one"))
    value = next(found.value for found in outcome.metrics if found.name == name)
    assert value is not None
    return float(value)


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
@pytest.mark.parametrize(
    ("bits", "granularity"),
    [
        *((bits, "group") for bits in range(2, 9)),
        *((bits, granularity) for bits in (3, 8) for granularity in ("channel", "tensor")),
    ],
)
def test_round_to_nearest_equals_the_formulas(
    bits: int, granularity: str, mapping: str, cells: TinyCells
) -> None:
    group = {"group": 16} if granularity == "group" else {}
    options = {"bits": bits, "mapping": mapping, "granularity": granularity, **group}
    loaded = cells.load(LLAMA, "integer", dtype="fp32", **options)
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
        weight = checkpoint_weight(cells.folder(LLAMA), f"{name}.weight")
        codes, scales, zeros = quantize(weight, bits, mapping, BLOCKS[granularity](weight.shape))
        held = layer_of(loaded, name).weight
        np.testing.assert_array_equal(held.qdata.numpy(), codes)
        np.testing.assert_array_equal(held.zero_point.numpy(), zeros)
        np.testing.assert_allclose(held.scale.numpy(), scales, rtol=1e-6)


def found_by_steps(block: np.ndarray, bits: int) -> tuple[np.ndarray, np.float32]:
    """Codes and scale of one group: each in its turn the best for the other."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = np.float32(np.abs(block).max() / -low)
    for _ in range(20):
        codes = np.clip(np.round(block / scale), low, high)
        before, scale = scale, np.float32((block * codes).sum() / (codes * codes).sum())
        if abs(scale / before - 1) < 1e-7:
            break
    return np.clip(np.round(block / scale), low, high), scale


@pytest.mark.parametrize("activations", ["none", "dynamic"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_scales_of_hqq_have_the_least_squared_error(
    bits: int, activations: str, cells: TinyCells
) -> None:
    options = {"bits": bits, "granularity": "group", "group": 16, "dtype": "fp32"}
    options |= {"activations": activations}
    found, usual = (
        cells.load(LLAMA, "integer", scales=scales, **options) for scales in ("hqq", "minmax")
    )
    assert found.verification.faults == ()
    assert found.verification.details["scales"] == "hqq"
    name = "model.layers.1.mlp.down_proj"
    weight = checkpoint_weight(cells.folder(LLAMA), f"{name}.weight")
    held = layer_of(found, name).weight
    same = 0
    for row, column in np.ndindex(weight.shape[0], weight.shape[1] // 16):
        place = (row, slice(16 * column, 16 * column + 16))
        codes, scale = found_by_steps(weight[place], bits)
        if np.isclose(float(held.scale[row, column]), scale, rtol=1e-4):
            same += bool((held.qdata[place].numpy() == codes).all())
    # Its search ends for all groups at once, and the codes of some go on changing here.
    assert same > 0.95 * weight.size / 16
    errors = [
        ((held_weight(layer_of(one, name)).numpy() - weight) ** 2).sum() for one in (found, usual)
    ]
    assert errors[0] < 0.97 * errors[1]


def test_scales_by_default_are_not_written_so_that_keys_stay() -> None:
    written = IntegerOptions().model_dump(mode="json")
    assert "scales" not in written
    assert IntegerOptions.model_validate(written).scales == "minmax"
    chosen = precisions()["int4-g32"].options(scales="hqq")
    assert chosen.model_dump()["scales"] == "hqq"
    conflict = methods()["qat"].conflicts(
        PrecisionRef(label="x", name="int4-g32", options=chosen.model_dump()), QatOptions()
    )
    assert conflict is not None
    assert "scales: hqq" in conflict


@pytest.mark.parametrize("name", ["int8-wo", "int4-g32", "int4-g32-asym", "w8a8"])
def test_codes_of_a_16_bit_model_are_computed_in_fp32(name: str, cells: TinyCells) -> None:
    variant = Variant("mistral-bf16-file", "mistral", {"dtype": "bfloat16"})
    in_16_bits = cells.load(variant, name, dtype="bf16")
    in_fp32 = cells.load(variant, name, dtype="fp32")
    for name_of_layer, layer in linear_layers(in_16_bits.model):
        expected = layer_of(in_fp32, name_of_layer).weight
        assert layer.weight.qdata.equal(expected.qdata)
        assert layer.weight.scale.equal(expected.scale.to(layer.weight.scale.dtype))


def test_conv1d_is_quantized_the_right_way_round(cells: TinyCells) -> None:
    loaded = cells.load(GPT2, "int4-g32", dtype="fp32")
    name = "transformer.h.1.mlp.c_fc"
    weight = checkpoint_weight(cells.folder(GPT2), f"{name}.weight").T
    codes, _, _ = quantize(weight, 4, "symmetric", (1, 32))
    np.testing.assert_array_equal(layer_of(loaded, name).weight.qdata.numpy(), codes)
    assert 0.03 < metric(loaded, WEIGHT_ERROR, "weight_error.relative") < 0.2


def test_w8a8_is_a_product_of_integers(cells: TinyCells) -> None:
    import torch

    loaded = cells.load(LLAMA, "w8a8", dtype="fp32")
    name = "model.layers.0.mlp.gate_proj"
    weight = checkpoint_weight(cells.folder(LLAMA), f"{name}.weight")
    codes, scales, _ = quantize(weight, 8, "symmetric", (1, weight.shape[1]))
    inputs = np.random.default_rng(0).normal(size=(5, weight.shape[1])).astype(np.float32)
    rounded, steps, _ = quantize(inputs, 8, "symmetric", (1, weight.shape[1]))
    sums = rounded.astype(np.int64) @ codes.astype(np.int64).T
    found = layer_of(loaded, name)(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(found, sums * steps * scales.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [3, 4])
def test_asymmetric_beats_symmetric_on_skewed_weights(bits: int, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path, "llama")
    file = folder / "model.safetensors"
    # All of one sign: half of a symmetric grid is never used.
    skewed = {
        name: weight.abs() if name.endswith("proj.weight") else weight
        for name, weight in load_file(file).items()
    }
    save_file(skewed, file, metadata={"format": "pt"})
    error = {
        mapping: metric(
            load_fresh(folder, "integer", bits=bits, mapping=mapping, dtype="fp32"),
            WEIGHT_ERROR,
            "weight_error.relative",
        )
        for mapping in ("symmetric", "asymmetric")
    }
    assert error["asymmetric"] < 0.6 * error["symmetric"]


def test_bytes_by_hand(cells: TinyCells) -> None:
    weights = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    found = cells.load(LLAMA, "int4-g32")
    # A byte a code; a bf16 scale and a zero point of one byte for each 32 of them.
    assert metric(found, FOOTPRINT, "memory.static.linear") == weights
    assert metric(found, FOOTPRINT, "memory.static.quantization_state") == weights / 32 * 3
    assert metric(found, FOOTPRINT, "bits_per_weight.linear") == 8 + 24 / 32
    # Packed: half a byte a code, the scale, and no zero point, for it is 0.
    assert metric(found, FOOTPRINT, "bits_per_weight.linear.nominal") == 4 + 16 / 32
    asymmetric = cells.load(LLAMA, "int4-g32-asym")
    assert metric(asymmetric, FOOTPRINT, "bits_per_weight.linear") == 8 + 24 / 32
    assert metric(asymmetric, FOOTPRINT, "bits_per_weight.linear.nominal") == 4 + 20 / 32


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym"])
def test_what_packed_codes_would_take_is_known_from_shapes(cells: TinyCells, name: str) -> None:
    loaded = cells.load(LLAMA, name)
    shape, precision = loaded.resolved.shape, precisions()[name]
    assert shape is not None
    assert isinstance(precision, Integer)
    packed = precision.packed_bytes(shape, options_of(loaded.cell.precision))
    assert packed is not None
    assert 8 * packed / shape.weights == pytest.approx(
        metric(loaded, FOOTPRINT, "bits_per_weight.nominal"), rel=1e-12
    )


def test_codes_of_eight_bits_are_packed_as_they_are(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "int8-wo")
    assert loaded.resolved.shape is not None
    options = options_of(loaded.cell.precision)
    assert precisions()["int8-wo"].packed_bytes(loaded.resolved.shape, options) is None


def test_bytes_of_int8_products_by_hand(cells: TinyCells) -> None:
    layers = [(64, 64), (32, 64), (32, 64), (64, 64), (128, 64), (128, 64), (64, 128)]
    rows = 2 * sum(out for out, _ in layers)
    columns = 2 * sum(wide for _, wide in layers)
    state = {"w8a8": 5 * rows, "w8a8-static": 5 * rows + 4 * 14, "w8a8-smooth": 5 * rows}
    state["w8a8-smooth"] += 4 * columns
    for name, expected in state.items():
        short = {"calibration_text": "bundled:stdlib-excerpt"} if name != "w8a8" else {}
        loaded = cells.load(LLAMA, name, **short)
        assert metric(loaded, FOOTPRINT, "memory.static.quantization_state") == expected


def test_stored_and_nominal_width_are_both_told(cells: TinyCells) -> None:
    details = cells.load(LLAMA, "int4-g32").verification.details
    assert (details["code_bits_nominal"], details["code_bits_stored"]) == (4, 8)
    nf4 = cells.load(LLAMA, "nf4")
    outcome = FOOTPRINT.measure(nf4, Item(measurement="footprint", slug="model"))
    assert not any("nominal" in found.name for found in outcome.metrics)


def test_layers_that_the_group_does_not_divide_are_named(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "integer", bits=4, granularity="group", group=128)
    left = [name for name, layer in linear_layers(loaded.model) if layer.in_features == 64]
    assert loaded.verification.faults == ()
    assert sorted(loaded.verification.details["left_out"]) == sorted([*left, "lm_head"])
    words = loaded.verification.warnings[0]
    assert "group 128 does not divide the width of 12 linear layers" in words
    assert "model.layers.0.self_attn.q_proj (64 wide)" in words
    assert "set a group that divides 64" in words


def test_a_layer_that_is_not_what_it_should_be_is_a_fault(cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "int4-g32")
    layer = layer_of(loaded, "model.layers.1.mlp.up_proj")
    layer.weight.qdata[3, 5] = 8
    options = options_of(loaded.cell.precision)
    (fault,) = precisions()["int4-g32"].verify(loaded.model, options).faults
    assert "model.layers.1.mlp.up_proj" in fault
    assert "beyond those of 4 bits" in fault


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bits": 1}, "greater than or equal to 2"),
        ({"bits": 9}, "less than or equal to 8"),
        ({"granularity": "group"}, "`group`, the weights that share a scale"),
        ({"group": 32}, "granularity: group beside `group: 32`"),
        ({"scales": "hqq", "mapping": "asymmetric"}, "beside scales: hqq"),
        ({"scales": "hqq", "granularity": "tensor"}, "beside scales: hqq"),
        ({"scales": "hqq", "weights": "gptq"}, "beside scales: hqq"),
        ({"activations": "static", "bits": 4}, "bits: 8, mapping: symmetric"),
        ({"activations": "dynamic", "bits": 4, "granularity": "tensor"}, "channel or group"),
        ({"weights": "smoothquant"}, "dynamic beside weights: smoothquant"),
        ({"weights": "gptq", "activations": "dynamic"}, "beside weights: gptq"),
        ({"calibration_windows": 4}, "nothing is calibrated without"),
        ({"weights": "gptq", "calibration_method": "mse"}, "activations: static beside"),
        ({"weights": "awq", "activations": "dynamic"}, "activations: none, beside weights: awq"),
        ({"weights": "awq", "damping": 0.1}, "weights: gptq beside `damping`"),
        ({"weights": "gptq", "clipping": False}, "weights: awq beside `clipping`"),
        ({"activations": "static", "calibration_percentile": 99.0}, "calibration_method: perc"),
        ({"compute_dtype": "bf16"}, "extra"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        IntegerOptions(**options)


@pytest.mark.parametrize("name", list(SHORT_NAMES))
def test_a_short_name_fixes_its_format_alone(name: str) -> None:
    options = precisions()[name].options
    own = options().model_dump()
    assert IntegerOptions.model_validate(own).model_dump() == own
    assert own == IntegerOptions(**SHORT_NAMES[name][1]).model_dump()
    assert options.model_validate({"dtype": "fp32"}).model_dump()["dtype"] == "fp32"
    other = 5 if own["bits"] != 5 else 6
    with pytest.raises(ValidationError, match="bits"):
        options.model_validate({"bits": other})


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated")
@pytest.mark.parametrize("name", ["int8-wo", "int4-g32-asym", "int4-g32-gptq", "integer"])
def test_lora_on_codes_learns_as_on_their_weights(name: str, cells: TinyCells) -> None:
    import torch

    ids = torch.arange(1, 33).reshape(1, -1)
    gradients = []
    for dequantized in (False, True):
        more: dict[str, Any] = {"dtype": "fp32"}
        if name == "integer":
            more |= {"bits": 4, "weights": "awq"}
        if name in {"integer", "int4-g32-gptq"}:
            more["calibration_text"] = "bundled:stdlib-excerpt"
        loaded = load_fresh(cells.folder(LLAMA), name, **more)
        if dequantized:
            for _, layer in linear_layers(loaded.model):
                layer.weight = torch.nn.Parameter(held_weight(layer), requires_grad=False)
        trainable = LORA.prepare(
            loaded.model,
            LoraOptions(target="all-linear"),
            precision=loaded.cell.precision,
            seed=0,
            folder=cells.folder(LLAMA),
        )
        trainable.model(input_ids=ids, labels=ids).loss.backward()
        factors = dict(trainable.model.named_parameters())
        gradients.append({k: v.grad for k, v in factors.items() if v.grad is not None})
    assert len(gradients[0]) == 28
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_lora_on_rounded_inputs_is_a_conflict(cells: TinyCells) -> None:
    options = LoraOptions()
    for name in ("w8a8", "w8a8-static", "w8a8-smooth"):
        reason = LORA.conflicts(cells.load(LLAMA, name).cell.precision, options)
        assert reason is not None
        assert "no gradient" in reason
    precision = cells.load(LLAMA, "int4-g32").cell.precision
    assert LORA.conflicts(precision, options) is None
    assert "merged-in-place" not in LORA.deployments(precision)
