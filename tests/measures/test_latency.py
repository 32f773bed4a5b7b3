"""Latency's statistics and arithmetic; no time itself is asserted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.cpu import usable_cores
from qbench.measures.latency import LATENCY, LatencyOptions
from tests.powercap import RANGE_UJ, Drawing, Powercap
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel, Outcome

BATCH, PROMPT, NEW = 3, 10, 4
UNTIED = Variant("llama", "llama")
TIED = Variant("llama-tied", "llama", {"tied": True})
CASES = [
    # variant, precision, key and value heads, width of a head, bytes of a cached element
    (UNTIED, "fp32", 2, 16, 4),
    (UNTIED, "bf16", 2, 16, 2),
    (TIED, "int8", 2, 16, 2),
    (UNTIED, "nf4-dq", 2, 16, 2),
    (Variant("gpt2-tied", "gpt2", {"tied": True}), "fp32", 4, 16, 4),
    (Variant("opt", "opt"), "fp16", 4, 16, 2),
]


def measure(loaded: LoadedModel, **options: Any) -> Outcome:
    given: dict[str, Any] = {
        "batch": BATCH,
        "prompt_tokens": PROMPT,
        "new_tokens": NEW,
        "repeats": 1,
        "min_iterations": 3,
        "min_seconds": 0.02,
    }
    (item,) = LATENCY.items(LatencyOptions(**(given | options)), loaded.resolved, Path())
    return LATENCY.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float]:
    found = {metric.name: metric.value for metric in outcome.metrics}
    missing = {name for name, value in found.items() if value is None}
    assert all(name.startswith("latency.energy") for name in missing)  # not told everywhere
    return {name: value for name, value in found.items() if value is not None}


def samples(outcome: Outcome, step: str) -> list[float]:
    metric = next(metric for metric in outcome.metrics if metric.name == f"latency.{step}")
    assert metric.samples is not None
    return list(metric.samples)


@pytest.mark.parametrize("step", ["prefill", "decode"])
def test_statistics_are_those_of_the_samples(step: str, cells: TinyCells) -> None:
    outcome = measure(cells.load(UNTIED, "fp32"), min_iterations=7)
    found, raw = values(outcome), samples(outcome, step)
    assert len(raw) == outcome.details["iterations"] >= 7
    assert min(raw) > 0
    assert found[f"latency.{step}"] == pytest.approx(np.median(raw))
    assert found[f"latency.{step}.p90"] == pytest.approx(np.percentile(raw, 90))
    assert found[f"latency.{step}.p99"] == pytest.approx(np.percentile(raw, 99))
    assert found[f"latency.{step}.iqr"] == pytest.approx(
        np.percentile(raw, 75) - np.percentile(raw, 25)
    )
    tokens = BATCH * PROMPT if step == "prefill" else BATCH
    assert found[f"throughput.{step}"] == pytest.approx(tokens / np.median(raw))


@pytest.mark.parametrize(("iterations", "seconds"), [(12, 0.0001), (1, 0.2)])
def test_enough_iterations_and_enough_seconds(
    iterations: int, seconds: float, cells: TinyCells
) -> None:
    outcome = measure(cells.load(UNTIED, "fp32"), min_iterations=iterations, min_seconds=seconds)
    prefill, decode = samples(outcome, "prefill"), samples(outcome, "decode")
    assert len(prefill) == len(decode) >= iterations
    # A sample of decode is the time of one token of NEW.
    assert sum(prefill) + NEW * sum(decode) >= seconds * (1 - 1e-9)
    if iterations == 12:
        assert len(prefill) == 12


def test_warm_up_is_recorded_and_bounded(cells: TinyCells) -> None:
    details = measure(cells.load(UNTIED, "fp32")).details
    assert 3 <= details["warmup_iterations"] <= 10
    assert len(details["warmup_s"]) == details["warmup_iterations"]


def test_what_other_programs_took_stands_beside_the_samples(cells: TinyCells) -> None:
    outcome = measure(cells.load(UNTIED, "fp32"), min_seconds=0.3)
    others = outcome.details["other_programs"]
    assert (others["threads"], others["cpus"]) == (1, usable_cores())
    assert (others["used_cpus"] is None) == (others["reason"] is not None)
    timed_s = sum(samples(outcome, "prefill")) + NEW * sum(samples(outcome, "decode"))
    assert others["seconds"] >= timed_s >= 0.3


@pytest.mark.parametrize(("variant", "precision", "kv_heads", "width", "itemsize"), CASES)
def test_bytes_of_the_cache_and_of_a_token(
    variant: Variant, precision: str, kv_heads: int, width: int, itemsize: int, cells: TinyCells
) -> None:
    loaded = cells.load(variant, precision)
    layers = 2
    outcome = measure(loaded)
    a_token = 2 * layers * kv_heads * width * itemsize * BATCH
    assert outcome.details["cache_bytes"] == a_token * (PROMPT + NEW)
    assert loaded.predicted is not None
    weights = loaded.predicted.total
    for name, table in loaded.model.named_parameters():
        if "wpe" in name or "embed_positions" in name:  # looked up
            weights -= table.numel() * table.element_size()
    if not variant.options.get("tied"):
        embedding = loaded.model.get_input_embeddings().weight
        weights -= embedding.numel() * embedding.element_size()
    read = values(outcome)["latency.decode.read_bytes"]
    assert read == pytest.approx(weights + a_token * (PROMPT + NEW / 2))


def test_the_floor_follows_from_bytes_and_bandwidth(cells: TinyCells) -> None:
    outcome = measure(cells.load(UNTIED, "bf16"))
    found = values(outcome)
    floor = found["latency.decode.read_bytes"] / found["latency.read_bandwidth"]
    assert found["latency.decode.read_floor"] == pytest.approx(floor)
    assert found["latency.decode.read_share"] == pytest.approx(floor / found["latency.decode"])


def test_a_cpu_has_no_device_times(cells: TinyCells) -> None:
    assert measure(cells.load(UNTIED, "bf16")).series == {}


def test_a_cpu_has_the_energy_of_its_processors(
    cells: TinyCells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a counter that a thread lets go on; what both steps draw is no more than the whole."""
    powercap = Powercap(tmp_path / "powercap")
    counter = powercap.add("intel-rapl:0", "package-0")
    monkeypatch.setattr("qbench.measures.roofline.energy.POWERCAP", powercap.folder)
    with Drawing(counter, 0, RANGE_UJ, step_uj=80_000) as drawing:
        outcome = measure(cells.load(UNTIED, "fp32"), batch=64, prompt_tokens=64, new_tokens=40)
    found = values(outcome)
    iterations = outcome.details["iterations"]
    whole = found["latency.energy"] * 64 * 40 * iterations
    assert 0 < whole <= drawing.drawn_uj / 1e6
    decode = found["latency.energy.decode"] * 64 * 40 * iterations
    prefill = found.get("latency.energy.prefill", 0.0) * 64 * 64 * iterations
    assert decode > 0
    assert decode + prefill <= whole * (1 + 1e-9)
    assert outcome.details["energy_method"] == "RAPL's counters of package-0"
    assert "host_energy" not in outcome.details


def test_a_grid_with_repeats() -> None:
    options = LatencyOptions(batch=[1, 8], prompt_tokens=[16, 16, 32], new_tokens=4, repeats=3)
    assert options.prompt_tokens == (16, 32)


def test_every_point_is_repeated(cells: TinyCells) -> None:
    options = LatencyOptions(batch=[1, 8], prompt_tokens=[16, 32], new_tokens=4, repeats=3)
    items = LATENCY.items(options, cells.load(UNTIED, "fp32").resolved, Path())
    assert len(items) == 2 * 2 * 3
    assert [item.repeat for item in items[:3]] == [0, 1, 2]
    assert {item.slug for item in items} == {"b1-p16-n4", "b1-p32-n4", "b8-p16-n4", "b8-p32-n4"}
    assert all(item.params["seed"] == 0 for item in items)
