"""The footprint of loaded models against sums made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file
from torch import nn

from qbench.core.spec import StaticBytes
from qbench.measures.footprint import FOOTPRINT, FootprintOptions
from qbench.precisions import precisions
from qbench.predict.bits import LogicalWeights, bits_per_weight, weights_of
from tests.precisions.tiny_cells import TinyCells, Variant, quick_options

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel, Outcome

VARIANTS = [
    Variant("llama", "llama"),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
]


def measure(loaded: LoadedModel) -> Outcome:
    (item,) = FOOTPRINT.items(FootprintOptions(), loaded.resolved, Path())
    return FOOTPRINT.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.label)
def variant(request: pytest.FixtureRequest) -> Variant:
    chosen: Variant = request.param
    return chosen


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, VARIANTS[at % len(VARIANTS)], id=name)
        for at, name in enumerate(precisions())
        if name != "stored"
    ],
)
def test_kinds_add_up_and_equal_the_arithmetic(
    name: str, variant: Variant, cells: TinyCells
) -> None:
    loaded = cells.load(variant, name, **quick_options(name))
    outcome = measure(loaded)
    found = values(outcome)
    assert "memory.static.adapters" not in found  # of tuned cells only
    kinds = {kind: found.get(f"memory.static.{kind}", 0) for kind in StaticBytes.model_fields}
    assert found["memory.static"] == sum(size or 0 for size in kinds.values())
    assert found["memory.static.predicted"] == found["memory.static"]
    assert outcome.warnings == ()
    assert loaded.predicted is not None
    assert kinds == loaded.predicted.model_dump()


@pytest.mark.parametrize(
    ("name", "bits"),
    [("fp32", 32), ("bf16", 16), ("fp16", 16), ("int8", 8), ("fp4", 4), ("nf4", 4), ("nf4-dq", 4)],
)
def test_bits_per_weight(name: str, bits: int, variant: Variant, cells: TinyCells) -> None:
    loaded = cells.load(variant, name)
    shape = loaded.resolved.shape
    assert shape is not None
    linear = sum(tensor.numel for tensor in shape.tensors if tensor.role == "linear")
    found = values(measure(loaded))
    assert found["weights"] == shape.weights
    assert found["memory.static.linear"] == linear * bits / 8
    state = found["memory.static.quantization_state"]
    assert state is not None
    assert (state > 0) == (bits < 16)
    assert found["bits_per_weight.linear"] == pytest.approx(bits + 8 * state / linear)
    tables = found["bits_per_weight.embeddings_and_head"]
    assert tables == {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 16}.get(name, tables)
    assert found["memory.static"] is not None
    assert found["bits_per_weight.model"] == pytest.approx(
        8 * found["memory.static"] / shape.weights
    )
    expected_share = linear / shape.weights if bits < 16 else 0
    assert found["quantized_share"] == pytest.approx(expected_share)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, VARIANTS[at % len(VARIANTS)], id=name)
        for at, name in enumerate(precisions())
        if name != "stored"
    ],
)
def test_bits_of_the_parts_are_those_of_a_count_by_layers_and_of_the_plan(
    name: str, variant: Variant, cells: TinyCells
) -> None:
    loaded = cells.load(variant, name, **quick_options(name))
    found = values(measure(loaded))
    # Counted from the checkpoint's own tensors, and the bytes of torch's modules.
    files = cells.folder(variant).glob("*.safetensors")
    stored = {key: one for path in files for key, one in load_file(path).items()}
    embeddings = {
        module.weight.data_ptr(): module
        for module in (*loaded.model.modules(),)
        if isinstance(module, nn.Embedding) or module is loaded.model.get_output_embeddings()
    }
    held_bytes = sum(one.weight.untyped_storage().nbytes() for one in embeddings.values())
    weights = sum(
        one.num_embeddings * one.embedding_dim
        if isinstance(one, nn.Embedding)
        else one.in_features * one.out_features
        for one in embeddings.values()
    )
    assert found["bits_per_weight.embeddings_and_head"] == pytest.approx(8 * held_bytes / weights)
    vectors = sum(one.numel() for one in stored.values() if one.dim() < 2)
    matrices = found["weights"] - vectors - weights
    linear_bytes = found["memory.static.linear"] + found["memory.static.quantization_state"]
    assert found["bits_per_weight.linear"] == pytest.approx(8 * linear_bytes / matrices)
    shape = loaded.resolved.shape
    assert shape is not None
    assert loaded.predicted is not None
    for part, bits in bits_per_weight(loaded.predicted, weights_of(shape)).items():
        assert found[f"bits_per_weight.{part}"] == bits


def test_a_part_without_weights_has_no_bits() -> None:
    none = LogicalWeights(model=4, linear=4, embeddings_and_head=0)
    found = bits_per_weight(StaticBytes(linear=2, quantization_state=1), none)
    assert found == {"model": 6, "linear": 6, "embeddings_and_head": None}


def test_single_blocks_cost_half_a_bit_and_a_table(cells: TinyCells) -> None:
    found = values(measure(cells.load(VARIANTS[0], "nf4")))
    weights = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert found["memory.static.linear"] == weights / 2
    # 4 bytes a block of 64, and 16 fp32 levels in each of 14 layers.
    assert found["memory.static.quantization_state"] == 4 * weights / 64 + 14 * 64


def test_disk_bytes_and_load_time(cells: TinyCells) -> None:
    loaded = cells.load(VARIANTS[0], "bf16")
    found = values(measure(loaded))
    files = cells.folder(VARIANTS[0]).glob("*.safetensors")
    assert found["disk_bytes"] == sum(path.stat().st_size for path in files)
    assert found["load_time"] == loaded.load_time_s > 0


def test_what_is_not_known_has_a_reason(cells: TinyCells) -> None:
    loaded = cells.load(VARIANTS[0], "bf16")
    unknown = loaded.resolved.model_copy(
        update={"shape": None, "shape_unknown": "its shapes are a secret", "disk_bytes": None}
    )
    metrics = {
        metric.name: metric
        for metric in measure(replace(loaded, resolved=unknown, predicted=None)).metrics
    }
    assert metrics["memory.static.predicted"].value is None
    assert metrics["memory.static.predicted"].reason == "its shapes are a secret"
    assert metrics["disk_bytes"].value is None
    assert metrics["disk_bytes"].reason
    assert metrics["memory.static"].value == values(measure(loaded))["memory.static"]


def test_a_precision_that_tells_no_quantized_share_is_measured_without(cells: TinyCells) -> None:
    loaded = cells.load(VARIANTS[0], "bf16")
    untold = replace(loaded, verification=replace(loaded.verification, details={}))
    [share] = [one for one in measure(untold).metrics if one.name == "quantized_share"]
    assert share.value is None
    assert share.reason == "the precision does not say which weights it quantized"


def test_a_difference_from_the_arithmetic_is_named_by_kind(cells: TinyCells) -> None:
    loaded = cells.load(VARIANTS[0], "bf16")
    assert loaded.predicted is not None
    wrong = loaded.predicted.model_copy(update={"norms": 1})
    (warning,) = measure(replace(loaded, predicted=wrong)).warnings
    assert f"norms {loaded.predicted.norms} where 1 was predicted" in warning
    assert "linear" not in warning
