"""Cold starts on a GPU: each start has a context of its own, made in a phase of its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qbench.core.checkpoint import Checkpoint
from qbench.measures.cold_start.cold_start import COLD_START, ColdStartOptions
from qbench.measures.cold_start.definitions import PHASES, TOTAL
from qbench.measures.loaded import UnbuiltCell
from tests.precisions.tiny_cells import TinyCells, Variant, make_job, resolve

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
TINY = Variant("mistral", "mistral", {"hidden": 256, "intermediate": 512, "context": 256})


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_phases_with_a_context_add_up(precision: str, cells: TinyCells) -> None:
    job = make_job(resolve(cells.folder(TINY)), precision).model_copy(update={"device": DEVICE})
    checkpoint = Checkpoint(Path(str(job.model.folder)), DEVICE)
    cell = UnbuiltCell(job.cell, job.model, checkpoint, DEVICE, job.model_dump(mode="json"))
    options = ColdStartOptions(read_from=("page-cache",), repeats=1, prompt_tokens=16)
    (item,) = COLD_START.items(options, job.model, Path())
    outcome = COLD_START.measure_apart(cell, item)
    found = {metric.name: metric.value for metric in outcome.metrics}
    phases = [found[f"cold_start.{phase}"] for phase in PHASES]
    assert math.isclose(found[TOTAL], sum(phases), rel_tol=1e-12)
    assert outcome.details["loaded"]["faults"] == []
