"""Cold starts on a GPU: the context is a phase of its own, and of the started process alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from qbench.measures.cold_start.definitions import PHASES, TOTAL
from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models:
  - source: {model}{more}
precisions: [nf4]
measure:
  cold_start: {{prompt_tokens: 8, repeats: 1, read_from: page-cache}}
"""


def run(place: Workplace, more: str = "") -> Record:
    """The record of the start, with all its phases."""
    place.write("suite.yaml", SUITE.format(model=place.model, more=more))
    done = place.call("run", "suite.yaml", "--device", "cuda")
    (record,) = place.records().values()
    assert record.status == "ok", (record.reason, done.output)
    return record


def test_a_model_over_several_gpus(workplace: Workplace) -> None:
    record = run(with_gpus(workplace, "h100", "h100"), "\n    device_map: auto")
    assert record.value("cold_start.cuda") is not None
    assert record.details["loaded"]["placement"]


def test_the_started_process_alone_makes_a_context(workplace: Workplace) -> None:
    log = workplace.folder / "initialised"
    place = with_gpus(workplace, "h100", GPU_STANDIN_LOG=str(log))
    record = run(place)
    total, phases = record.value(TOTAL), [record.value(f"cold_start.{one}") for one in PHASES]
    assert total is not None
    assert None not in phases
    assert math.isclose(total, sum(filter(None, phases)), rel_tol=1e-12)
    assert record.details["loaded"]["quantized_modules"] == 14
    initialised = log.read_text(encoding="utf-8").splitlines()
    (start,) = (line for line in initialised if "first_token.py" in line)
    assert "transformers" not in start, "an import made it, before its phase"
    assert not [line for line in initialised if "fork_server.py" in line or "worker.py" in line]
