"""How the forward runs on a GPU: captured and compiled decodes compute what the eager one does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.latency import LATENCY, LatencyOptions
from qbench.running.loading import load
from tests.precisions.tiny_cells import TinyCells, Variant, make_job, resolve

if TYPE_CHECKING:
    from qbench.measures.loaded import Outcome

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
TINY = Variant("llama", "llama")
BATCH, NEW = 2, 8


def measure(cells: TinyCells, precision: str, forward: str, **options: Any) -> Outcome:
    job = make_job(resolve(cells.folder(TINY)), precision)
    loaded = load(job.model_copy(update={"device": DEVICE}), lambda phase: None)
    given = LatencyOptions(
        batch=(BATCH,),
        prompt_tokens=(16,),
        new_tokens=(NEW,),
        repeats=1,
        forward=(forward,),
        **options,
    )
    (item,) = LATENCY.items(given, loaded.resolved, Path())
    return LATENCY.measure(loaded, item)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("forward", ["static", "cuda-graphs"])
def test_logits_are_those_of_the_eager_forward(
    precision: str, forward: str, cells: TinyCells
) -> None:
    same = measure(cells, precision, forward).details["as_eager"]
    assert same["tokens"] == BATCH * NEW
    assert same["logits_apart"] < 0.05


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_logits_are_those_of_the_eager_forward(mode: str, cells: TinyCells) -> None:
    pytest.importorskip("triton")
    outcome = measure(cells, "bf16", "compile", compile_mode=mode)
    assert outcome.details["as_eager"]["logits_apart"] < 0.05
    assert outcome.details["recompiled_while_timed"] == 0
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert (values["latency.compile"] or 0) > 0
