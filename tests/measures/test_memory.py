"""Peaks by phase of a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.memory import MEMORY, PHASES, MemoryOptions
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from qbench.core.record import Metric

LONG = Variant("llama-long", "llama", {"context": 4096, "layers": 1})
PAGES = 4 * 2**20


def measure(cells: TinyCells, **options: int) -> tuple[dict[str, Metric], dict[str, Any]]:
    loaded = load_fresh(cells.folder(LONG), "fp32")
    (item,) = MEMORY.items(MemoryOptions(**options), loaded.resolved, Path())
    outcome = MEMORY.measure(loaded, item)
    assert outcome.warnings == ()
    return {metric.name: metric for metric in outcome.metrics}, outcome.details


def value(metrics: dict[str, Metric], name: str) -> float:
    found = metrics[name].value
    assert found is not None
    return found


def test_the_peak_is_the_highest_phase_less_the_level_before(cells: TinyCells) -> None:
    metrics, details = measure(cells, prompt_tokens=16, new_tokens=2)
    phases = [value(metrics, f"memory.peak.{phase}") for phase in PHASES]
    assert value(metrics, "memory.peak") == max(phases) - details["level_before_bytes"]
    assert details["allocation_retries"] == 0
    assert details["method"]


@pytest.mark.slow
def test_on_a_cpu_the_resident_size_varies_by_process_and_the_tensors_by_nothing(
    cells: TinyCells,
) -> None:
    runs = [measure(cells, prompt_tokens=16, new_tokens=2)[0] for _ in range(2)]
    assert {run["memory.peak.inference"].value for run in runs} == {
        value(runs[0], "memory.peak.inference")
    }
    assert runs[0]["memory.peak.inference"].varies_by == "nothing"
    for name in ("memory.peak", *(f"memory.peak.{phase}" for phase in PHASES)):
        assert runs[0][name].varies_by == "process"


def test_a_point_can_be_taken_in_several_processes(cells: TinyCells) -> None:
    model = load_fresh(cells.folder(LONG), "fp32").resolved
    once, several = (
        MEMORY.items(MemoryOptions(batch=(1, 2), repeats=repeats), model, Path())
        for repeats in (1, 3)
    )
    assert [item.repeat for item in several] == [0, 1, 2, 0, 1, 2]
    assert [item for item in several if item.repeat == 0] == once


@pytest.mark.slow
def test_a_long_prompt_shows_in_its_phase_alone(cells: TinyCells) -> None:
    # The kernel may take back pages meanwhile, which lowers a peak: it does not do so each time.
    grown = []
    for _ in range(3):
        metrics, _ = measure(cells, prompt_tokens=4000, new_tokens=1, batch=16)
        idle, prefill, decode = (
            value(metrics, f"memory.peak.{phase}") for phase in ("idle", "prefill", "decode")
        )
        assert decode < prefill
        grown.append((prefill - idle, decode - idle))
    # Keys and values, (16, 2, 4000, 16) each in fp32, and the states of 64000 positions.
    cache_bytes = 2 * 16 * 2 * 4000 * 16 * 4
    states_bytes = 16 * 4000 * 64 * 4
    in_prefill, in_decode = (max(phase) for phase in zip(*grown, strict=True))
    assert in_prefill >= cache_bytes + states_bytes - PAGES
    assert in_decode >= cache_bytes - PAGES


def test_nothing_is_reserved_on_a_cpu(cells: TinyCells) -> None:
    metrics, _ = measure(cells, prompt_tokens=4, new_tokens=1)
    for phase in PHASES:
        assert metrics[f"memory.reserved.{phase}"].value is None
        assert "CUDA" in str(metrics[f"memory.reserved.{phase}"].reason)


@pytest.mark.parametrize(("prompt", "fits"), [(96, True), (97, False)])
def test_a_length_beyond_the_context(prompt: int, cells: TinyCells, *, fits: bool) -> None:
    model = load_fresh(cells.folder(LONG), "fp32").resolved
    model = model.model_copy(update={"context_tokens": 128})
    found = MEMORY.misfit(MemoryOptions(prompt_tokens=(prompt,), new_tokens=(32,)), model)
    if fits:
        assert found is None
        return
    assert found is not None
    assert found.place == "prompt_tokens"
    assert "97 with 32 new tokens" in found.found
    assert "at most 128" in (found.expected or "")
    assert "at most 96" in (found.remedy or "")


LENGTHS = (128, 512, 1024)


@pytest.mark.parametrize("chunk", [None, 48, 128])
def test_over_lengths_the_cache_grows_by_the_token_and_peaks_are_as_predicted(
    chunk: int | None, cells: TinyCells
) -> None:
    found = {}
    for tokens in LENGTHS:
        chosen = {} if chunk is None else {"prefill_chunk": chunk}
        metrics, _ = measure(cells, prompt_tokens=tokens, new_tokens=2, **chosen)
        cache = value(metrics, "memory.kv_cache")
        # Keys and values of one layer, 2 heads of 16 numbers in fp32.
        assert cache == value(metrics, "memory.kv_cache.predicted") == 2 * 2 * 16 * 4 * (tokens + 2)
        peak = value(metrics, "memory.peak.inference")
        ids = 8 * (tokens + 2)  # the tensor that each forward's ids are a view of
        assert peak == pytest.approx(value(metrics, "memory.peak.predicted"), rel=0.002, abs=ids)
        found[tokens] = peak
    if chunk is not None:
        whole, _ = measure(cells, prompt_tokens=LENGTHS[-1], new_tokens=2)
        assert found[LENGTHS[-1]] < 0.9 * value(whole, "memory.peak.inference")
