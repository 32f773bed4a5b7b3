"""The action on a GPU: the first run makes a baseline, the next are compared with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.composite import Composite
from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{}]
precisions: [fp32, bf16]
measure: [footprint]
gate: {{memory.static: {{max_increase: 1%}}}}
"""
FILE = "results/baselines/suite-gpu.json.gz"


def test_the_first_run_proposes_a_baseline_and_the_next_is_gated(workplace: Workplace) -> None:
    place = with_gpus(workplace, "h100")
    place.write("suite.yaml", SUITE.format(place.model))
    temporary = place.folder / "temporary"
    temporary.mkdir()
    used = Composite(place.folder, temporary, place.environment)
    given = {"suite": "suite.yaml", "device": "cuda", "python": sys.executable, "comment": "false"}

    assert used.call(**given, baseline=FILE, propose_baseline="true"), used.log
    assert used.outputs["verdict"] == "no-baseline"
    made = Path(used.steps["upload"].given["path"]) / "suite-gpu.json.gz"
    (place.folder / "results" / "baselines").mkdir()
    made.rename(place.folder / FILE)

    assert used.call(**given, baseline=FILE, propose_baseline="true"), used.log
    assert used.outputs["verdict"] == "passed"

    assert not used.call(**given, baseline="results/baselines/sweet.json.gz")
    assert used.steps["gate"].code == 2
    assert not (place.folder / "results" / "baselines" / "sweet.json.gz").exists()
