"""A known allocation shows in the peak between a boundary and its reading, and not after."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.measures import peaks
from qbench.measures.peaks import PeakMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOCATED = 96 * 2**20
PAGES = 4 * 2**20
"""What else a process may take meanwhile; the kernel counts pages in batches a core."""


def allocate_for(seconds: float) -> None:
    """Touches every page of an allocation, keeps it for that long, and frees it."""
    held = np.ones(ALLOCATED, dtype=np.uint8)
    time.sleep(seconds)
    del held
    gc.collect()


@pytest.fixture(params=["high-water mark", "sampler"])
def meter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PeakMeter:
    if request.param == "sampler":
        monkeypatch.setattr(peaks, "_can_reset_high_water_mark", lambda: False)
    made = PeakMeter("cpu")
    if request.param not in made.method and request.param == "high-water mark":
        pytest.skip("the kernel does not let the high-water mark be reset here")
    return made


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_an_allocation_shows_in_its_phase(meter: PeakMeter) -> None:
    meter.boundary()
    before = meter.level_bytes()
    allocate_for(0.1)
    peak = meter.read()
    assert ALLOCATED - PAGES <= peak.used_bytes - before <= ALLOCATED + PAGES
    assert peak.reserved_bytes is None
    assert peak.allocation_retries is None


def test_a_boundary_forgets_the_phase_before(meter: PeakMeter) -> None:
    meter.boundary()
    before = meter.level_bytes()
    allocate_for(0.1)
    meter.boundary()
    assert abs(meter.read().used_bytes - before) <= PAGES


def test_what_is_kept_is_the_next_phases_level(meter: PeakMeter) -> None:
    meter.boundary()
    before = meter.level_bytes()
    held = np.ones(ALLOCATED, dtype=np.uint8)
    meter.boundary()
    peak = meter.read()
    assert abs(meter.level_bytes() - before - held.nbytes) <= PAGES
    assert abs(peak.used_bytes - before - held.nbytes) <= PAGES


def test_a_boundary_frees_what_is_only_reachable_from_itself(meter: PeakMeter) -> None:
    meter.boundary()
    before = meter.level_bytes()
    cycle: dict[str, object] = {"array": np.ones(ALLOCATED, dtype=np.uint8)}
    cycle["self"] = cycle
    del cycle
    meter.boundary()
    assert abs(meter.read().used_bytes - before) <= PAGES


def test_the_method_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_can_reset_high_water_mark", lambda: False)
    assert "sampled every 5 ms" in PeakMeter("cpu").method
    monkeypatch.setattr(peaks, "_can_reset_high_water_mark", lambda: True)
    assert "high-water mark" in PeakMeter("cpu").method
