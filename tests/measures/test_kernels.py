"""The linear layers by themselves: sizes, bytes, floors, kernels and sums by other computations."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from qbench.core.errors import MeasurementError
from qbench.measures.kernels.kernels import KERNELS, ROWS, KernelsOptions
from qbench.measures.kernels.layers import LayerSize, layer_sizes
from qbench.measures.kernels.ran import Operator, called_operators, what_ran
from qbench.measures.kernels.timing import ROUNDS, in_turns, timed_rounds
from qbench.precisions import precisions
from qbench.precisions.verification import linear_layers
from tests.precisions.tiny_cells import TinyCells, Variant, quick_options, typed_options_of

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel, Outcome

TINY = Variant("llama", "llama")
GPT2 = Variant("gpt2", "gpt2")
EVERY = [name for name, one in precisions().items() if not one.takes_quantized]
# Each is 64 wide, with 4 heads of 16, 2 for keys and values, an MLP of 128, 2 layers.


def measured(loaded: LoadedModel, tmp_path: Path, rows: int = 4) -> Outcome:
    options = KernelsOptions(rows=(rows,), repeats=1, min_seconds=0.002)
    (item,) = KERNELS.items(options, loaded.resolved, tmp_path)
    return KERNELS.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4", "nf4-dq", "int4-g32"])
def test_sizes_are_those_of_the_model_and_bytes_those_of_the_arithmetic(
    precision: str, cells: TinyCells
) -> None:
    loaded = cells.load(TINY, precision)
    sizes = layer_sizes(loaded.model)
    expected = Counter(
        (tensor.out_features, tensor.in_features)
        for tensor in loaded.resolved.shape.tensors  # type: ignore[union-attr]
        if tensor.role == "linear"
    )
    assert {(one.outputs, one.inputs): one.count for one in sizes} == expected
    assert sum(one.count for one in sizes) == len(linear_layers(loaded.model))
    names = [name for one in sizes for name in one.names]
    assert len(set(names)) == len(names)
    shape = loaded.resolved.shape
    assert shape is not None
    arithmetic = precisions()[precision].storage(shape, typed_options_of(precision))
    held = sum(one.count * one.held_bytes for one in sizes)
    assert held == arithmetic.linear + arithmetic.quantization_state + arithmetic.biases


def test_a_layer_with_a_bias_reads_it(cells: TinyCells) -> None:
    """GPT-2's layers are Conv1D, (in, out), each with a bias."""
    sizes = layer_sizes(cells.load(GPT2, "fp32").model)
    assert all(one.bias for one in sizes)
    for one in sizes:
        assert one.held_bytes == 4 * one.outputs * (one.inputs + 1)
        assert tuple(one.layers[0].weight.shape) == (one.inputs, one.outputs)


def test_traffic_and_operations_by_hand() -> None:
    size = LayerSize(
        "6x4", 6, 4, bias=False, held_bytes=100, names=("a",), layers=(nn.Linear(4, 6),)
    )
    assert size.traffic_bytes(3, 2) == 100 + 3 * 4 * 2 + 3 * 6 * 2
    assert size.operations(3) == 2 * 3 * 4 * 6


def test_layers_take_turns_until_no_cache_holds_them() -> None:
    layer = nn.Linear(1, 1)
    size = LayerSize(
        "1x1", 1, 1, bias=False, held_bytes=2**26, names=("a",) * 9, layers=(layer,) * 9
    )
    assert len(size.turning) == 4  # of 64 MiB each, 256 MiB in all
    assert size.turns(2**20) == 9
    assert size.turns(2**30) == 1


def test_equal_sizes_that_are_held_otherwise_are_apart() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8, bias=False)
            self.b = nn.Linear(8, 8, bias=False)
            self.c = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
            self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])

        def get_output_embeddings(self) -> None:
            return None

    model: Any = Model()
    found = [(one.label, one.names, one.held_bytes) for one in layer_sizes(model)]
    assert found == [("8x8", ("a", "b"), 256), ("8x8-2", ("c",), 128)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4-dq"])
def test_a_timed_layer_multiplies_by_its_weights(precision: str, cells: TinyCells) -> None:
    loaded = cells.load(TINY, precision)
    tolerance = {"fp32": 1e-5, "bf16": 1e-2, "int8": 3e-2, "nf4-dq": 1e-2}[precision]
    for size in layer_sizes(loaded.model):
        inputs = torch.randn(1, 3, size.inputs, generator=torch.Generator().manual_seed(1))
        inputs = inputs.to(loaded.model.dtype)
        for layer in size.turning:
            with torch.inference_mode():
                found = in_turns([layer], inputs)()
                weight = precisions()[precision].weights(layer).float()
            expected = inputs.float() @ weight.T
            assert float((found.float() - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4", "int8"])
def test_sums_floors_and_ratios_follow_from_what_the_record_holds(
    precision: str, cells: TinyCells, tmp_path: Path
) -> None:
    outcome = measured(cells.load(TINY, precision), tmp_path)
    found, sizes = values(outcome), outcome.details["sizes"]
    sums = {
        name: [
            sum(one["layers"] * outcome.series[f"{one['size']}.{name}_s"][at] for one in sizes)
            for at in range(ROUNDS)
        ]
        for name in ("own", "bf16", "fp32")
    }
    assert found["kernels.time"] == pytest.approx(statistics.median(sums["own"]))
    for name, suffix in (("bf16", ""), ("fp32", ".fp32")):
        ratios = [own / other for own, other in zip(sums["own"], sums[name], strict=True)]
        assert found[f"kernels.time.{name}"] == pytest.approx(statistics.median(sums[name]))
        assert found[f"kernels.ratio{suffix}"] == pytest.approx(statistics.median(ratios))
    rows, item = 4, 4 if precision == "fp32" else 2
    floor = 0.0
    for one in sizes:
        outputs, inputs = map(int, one["size"].split("x"))
        moved = one["held_bytes"] + rows * (inputs + outputs) * item
        assert one["bytes"] == moved
        assert one["operations"] == 2 * rows * inputs * outputs
        assert one["seconds"]["own"] == statistics.median(outcome.series[f"{one['size']}.own_s"])
        bandwidth, rate = found["kernels.read_bandwidth"], found["kernels.matrix_rate"]
        assert bandwidth
        assert rate
        own = max(moved / bandwidth, one["operations"] / rate)
        assert one["floor_s"] == pytest.approx(own)
        floor += one["layers"] * own
    assert found["kernels.floor"] == pytest.approx(floor)
    assert found["kernels.floor_share"] == pytest.approx(floor / statistics.median(sums["own"]))
    assert found["kernels.bytes"] == sum(one["layers"] * one["bytes"] for one in sizes)
    assert found["kernels.operations"] == sum(one["layers"] * one["operations"] for one in sizes)
    assert outcome.details["multiplied_in"] == ("int8" if precision == "int8" else item_type(item))


def item_type(item_bytes: int) -> str:
    return "fp32" if item_bytes == 4 else "bf16"


# What the installed libraries do on a CPU, as their sources say.
EXPECTED = {
    "fp32": "plain",
    "bf16": "plain",
    "fp16": "plain",
    "nf4": "dequantize and multiply",
    "nf4-dq": "dequantize and multiply",
    "fp4": "dequantize and multiply",
    "int4-g32": "dequantize and multiply",
    "int8-wo": "dequantize and multiply",
    "hqq4": "dequantize and multiply",
    "quanto-int4": "dequantize and multiply",
    "quanto-int8": "fused",
    "fp8": "dequantize and multiply",
    "fp8-w8a8": "fall-back",
    "w8a8": "fused",
    "gguf-q8_0": "dequantize and multiply",
}


def test_what_is_expected_is_of_precisions_that_there_are() -> None:
    assert set(EXPECTED) <= set(EVERY)


@pytest.mark.parametrize(
    ("precision", "rows"), [*((name, 1) for name in EVERY), ("w8a8", 33), ("nf4", 33)]
)
def test_the_kernel_of_every_precision_is_told(
    precision: str, rows: int, cells: TinyCells, tmp_path: Path
) -> None:
    loaded = cells.load(TINY, precision, **quick_options(precision))
    for one in measured(loaded, tmp_path, rows).details["sizes"]:
        if precision in EXPECTED:
            assert one["kernel"] == EXPECTED[precision], one["operators"]
        assert one["kernel"] is not None, one["kernel_reason"]
        assert one["kernel_reason"] is None
        assert one["operators"]


def test_a_library_kernel_that_calls_a_floating_product_itself_is_not_fused() -> None:
    """The same operator of bitsandbytes is a kernel on some devices and dequantizes on others."""
    nested = called_operators({"a": lambda: torch.mm(torch.ones(2, 2), torch.ones(2, 2))})["a"]
    fused = (Operator("bitsandbytes::gemm_4bit", (Operator("aten::empty"),)),)
    assert what_ran(fused, coded=True).kernel == "fused"
    assert what_ran(fused, coded=True).operators == ("bitsandbytes::gemm_4bit",)
    inside = (Operator("bitsandbytes::gemm_4bit", (Operator("aten::linear", nested),)),)
    assert what_ran(inside, coded=True, kind="4bit").kernel == "dequantize and multiply"
    assert what_ran(nested, coded=False).kernel == "plain"
    assert what_ran(nested, coded=True).kernel == "dequantize and multiply"
    assert what_ran(nested, coded=True, kind="codes").kernel == "fall-back"
    assert what_ran(nested, coded=True, kind="packed").kernel == "fall-back"
    # On CUDA torchao asks for products of codes, which are refused for few rows, and takes others.
    refused = (Operator("aten::_int_mm"), *nested)
    assert what_ran(refused, coded=True, kind="codes").kernel == "fall-back"
    assert what_ran(refused, coded=True).kernel == "fall-back"
    # LLM.int8's outlier columns are a floating product beside that of the codes.
    beside = (Operator("bitsandbytes::int8_linear_matmul", (Operator("aten::_int_mm"),)), *nested)
    assert what_ran(beside, coded=True, kind="outliers").kernel == "fused"


def test_a_kernel_that_is_not_known_is_not_guessed() -> None:
    called = called_operators({"a": lambda: torch.ones(3).sum(), "b": lambda: torch.ones(3) * 2})
    assert set(called) == {"a", "b"}
    ran = what_ran(called["a"], coded=True)
    assert ran.kernel is None
    assert ran.reason is not None
    assert "aten::sum" in ran.reason


def test_every_call_is_timed_in_every_round_and_layers_turn() -> None:
    seen: list[int] = []

    def layer(at: int) -> Any:
        return lambda inputs: seen.append(at)

    threads = torch.get_num_threads()
    looked: list[int] = []
    rounds = timed_rounds(
        {"a": in_turns([layer(0), layer(1), layer(2)], torch.ones(1)), "b": lambda: None},
        device=torch.device("cpu"),
        min_seconds=0.001,
        after_each=lambda: looked.append(1),
    )
    assert {name: len(each) for name, each in rounds.items()} == {"a": ROUNDS, "b": ROUNDS}
    assert len(looked) == ROUNDS
    assert all(math.isfinite(one) and one > 0 for each in rounds.values() for one in each)
    assert seen[:7] == [0, 1, 2, 0, 1, 2, 0]
    assert torch.get_num_threads() == threads


def test_items_are_one_a_number_of_rows_and_repeat(tmp_path: Path, cells: TinyCells) -> None:
    model = cells.load(TINY, "fp32").resolved
    items = KERNELS.items(KernelsOptions(), model, tmp_path)
    assert len(items) == len(ROWS) * 5
    assert [item.slug for item in items][::5] == [f"rows-{rows}" for rows in ROWS]
    assert items[0].params == {"rows": 1, "min_seconds": 0.2, "seed": 0}
    assert KernelsOptions.model_validate({"rows": 8}).rows == (8,)
    with pytest.raises(ValueError, match="rows"):
        KernelsOptions.model_validate({"rows": []})
    with pytest.raises(ValueError, match="greater than 0"):
        KernelsOptions.model_validate({"rows": [0]})


def test_int8_says_that_it_had_no_outliers(cells: TinyCells, tmp_path: Path) -> None:
    found = measured(cells.load(TINY, "int8"), tmp_path).warnings
    assert any("outlier columns" in one for one in found)
    assert not any("outlier" in one for one in measured(cells.load(TINY, "nf4"), tmp_path).warnings)


def test_a_cpu_that_does_not_multiply_bf16_says_so(
    cells: TinyCells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = cells.load(TINY, "bf16")
    for features, told in (((), True), (("avx512_bf16",), False), (("amx_bf16",), False)):
        monkeypatch.setattr("qbench.measures.kernels.kernels.cpu_features", lambda f=features: f)
        found = any("does not multiply bf16" in one for one in measured(loaded, tmp_path).warnings)
        assert found is told


def test_a_model_without_linear_layers_is_refused(
    cells: TinyCells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbench.measures.kernels.kernels.layer_sizes", lambda model: [])
    with pytest.raises(MeasurementError, match="no linear layer to time"):
        measured(cells.load(TINY, "fp32"), tmp_path)
