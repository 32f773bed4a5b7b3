"""What the measurements say of a GPU: its allocator, its clocks, its rates, its energy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.gpu import device_used_bytes, gpu_probe
from qbench.core.spec import Item
from qbench.finetune import methods
from qbench.measures.footprint import FOOTPRINT, FootprintOptions
from qbench.measures.latency import LATENCY, LatencyOptions
from qbench.measures.memory import MEMORY, MemoryOptions
from qbench.measures.roofline.rates import matrix_rate, read_bandwidth
from qbench.measures.training.training import TRAINING
from qbench.running.loading import load
from qbench.sources.data.tuning import TuningDataOptions, resolve_tuning_data
from tests.precisions.tiny_cells import TinyCells, Variant, make_job, resolve

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel, Outcome

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
MIB = 2**20
TINY = Variant("mistral", "mistral", {"hidden": 256, "intermediate": 512, "context": 256})
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq")


def load_on_gpu(cells: TinyCells, precision: str) -> LoadedModel:
    job = make_job(resolve(cells.folder(TINY)), precision)
    return load(job.model_copy(update={"device": DEVICE}), lambda phase: None)


def values(outcome: Outcome) -> dict[str, Any]:
    return {metric.name: metric.value for metric in outcome.metrics}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_those_of_the_arithmetic(precision: str, cells: TinyCells) -> None:
    loaded = load_on_gpu(cells, precision)
    assert loaded.verification.faults == ()
    (item,) = FOOTPRINT.items(FootprintOptions(), loaded.resolved, Path())
    found = values(FOOTPRINT.measure(loaded, item))
    assert found["memory.static"] == found["memory.static.predicted"]


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4-dq"])
def test_peaks_are_the_allocators_and_the_device_holds_more(
    precision: str, cells: TinyCells
) -> None:
    loaded = load_on_gpu(cells, precision)
    options = MemoryOptions(batch=2, prompt_tokens=32, new_tokens=4)
    (item,) = MEMORY.items(options, loaded.resolved, Path())
    outcome = MEMORY.measure(loaded, item)
    found = values(outcome)
    assert loaded.predicted is not None
    # Allocations are rounded up to 512 B, and cuBLAS takes a workspace of up to 32 MiB; what other
    # tests hold is taken off by its level.
    idle = found["memory.peak.idle"] - loaded.level_before_bytes
    assert loaded.predicted.total <= idle <= loaded.predicted.total + 64 * MIB
    assert found["memory.peak.prefill"] > found["memory.peak.idle"]
    for phase in ("load", "idle", "prefill", "decode"):
        assert found[f"memory.reserved.{phase}"] >= found[f"memory.peak.{phase}"]
    assert outcome.details["method"] == "torch.cuda allocator"
    assert outcome.details["allocation_retries"] == 0


def test_latency_has_device_times_clocks_and_the_floor(cells: TinyCells) -> None:
    loaded = load_on_gpu(cells, "bf16")
    options = LatencyOptions(batch=1, prompt_tokens=32, new_tokens=8, repeats=1)
    (item,) = LATENCY.items(options, loaded.resolved, Path())
    outcome = LATENCY.measure(loaded, item)
    found = values(outcome)
    assert len(outcome.series["decode_device_s"]) == outcome.details["iterations"]
    # The device cannot have worked for longer than it took.
    assert min(outcome.series["decode_device_s"]) <= found["latency.decode.p99"] * 1.05
    assert found["latency.decode.read_floor"] > 0
    assert found["latency.prefill.matrix_share"] > 0
    with gpu_probe(DEVICE) as probe:
        if probe is None:
            pytest.skip("NVML is silent here")
        tells_energy = probe.energy_j() is not None or probe.power_w() is not None
    assert outcome.details["gpu"]["after"].keys() == outcome.details["gpu"]["before"].keys()
    if tells_energy:
        assert found["latency.energy"] > 0
        assert outcome.details["energy_method"] is not None


def test_the_rates_are_those_of_a_gpu() -> None:
    bandwidth = read_bandwidth(DEVICE, 2**28).per_s
    assert bandwidth is not None
    assert 5e10 < bandwidth < 5e13
    rates = {dtype: matrix_rate(DEVICE, dtype).per_s for dtype in ("fp32", "fp16")}
    assert rates["fp32"] is not None
    assert rates["fp16"] is not None
    assert 5e11 < rates["fp32"] < 1e16
    assert rates["fp16"] > 0.5 * rates["fp32"]


def test_nvml_sees_what_torch_takes() -> None:
    import torch

    torch.ones(1, device=DEVICE)
    before = device_used_bytes(DEVICE)
    if before is None:
        pytest.skip("NVML is silent here")
    held = torch.ones(512 * MIB, dtype=torch.uint8, device=DEVICE)
    torch.cuda.synchronize(DEVICE)
    after = device_used_bytes(DEVICE)
    assert after is not None
    # Others may use the GPU too, and cached blocks may have been there.
    assert held.nbytes == 512 * MIB
    assert after >= before


@pytest.mark.parametrize(
    ("precision", "optimizer"), [("bf16", "adamw"), ("nf4-dq", "paged_adamw_32bit")]
)
def test_a_training_says_what_its_steps_took(
    precision: str, optimizer: str, cells: TinyCells, tmp_path: Path
) -> None:
    path = tmp_path / "functions.jsonl"
    rows = [
        {"instruction": f"Add {at}.", "output": f"def add_{at}(x):\n    return x + {at}\n"}
        for at in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = TuningDataOptions(dataset=str(path), train=12, validation=4, test=4)
    options = methods()["lora"].options(
        rank=8, target="all-linear", batch=4, steps=12, optimizer=optimizer
    )
    item = Item(
        measurement="training",
        slug="lora",
        params={
            "data": resolve_tuning_data(asked, base=tmp_path).model_dump(mode="json"),
            "method": "lora",
            "options": options.model_dump(mode="json"),
            "seed": 0,
        },
    )
    loaded = replace(load_on_gpu(cells, precision), artifact_key="0123456789abcdef")
    outcome = TRAINING.measure(loaded, item)
    found = values(outcome)
    assert found["training.loss"] > 0
    assert found["training.memory.peak"] > found["training.memory.base_weights"] > 0
    assert found["training.operations"] > 0
    assert 0 < found["training.matrix_share"] < 1
    assert outcome.details["multiplied_in"] == "bf16"
