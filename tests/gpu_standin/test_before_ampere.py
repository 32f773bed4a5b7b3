"""A GPU that does not multiply bf16: told in plan and records, and left out of new suites."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{model}]
precisions: [bf16, fp16]
reference: fp16
measure:
  footprint:
  memory: {{prompt_tokens: 8, new_tokens: 2}}
"""
WORDS = "Tesla T4 does not multiply bf16"


def test_bf16_on_a_t4(workplace: Workplace) -> None:
    place = with_gpus(workplace, "t4")
    place.write("suite.yaml", SUITE.format(model=place.model))
    plan = place.call("plan", "suite.yaml", "--device", "cuda")
    assert f"bf16: {WORDS}" in " ".join(plan.output.split())
    done = place.call("run", "suite.yaml", "--device", "cuda")
    assert done.code == 0, done.output + done.errors
    warned = {
        (record.cell.label, record.item.measurement): any(WORDS in one for one in record.warnings)
        for record in place.records().values()
    }
    assert warned == {
        ("bf16", "memory"): True,
        ("bf16", "footprint"): False,
        ("fp16", "memory"): False,
        ("fp16", "footprint"): False,
    }
    memory = {
        record.cell.label: record.value("memory.peak.predicted")
        for record in place.records().values()
        if record.item.measurement == "memory"
    }
    assert None not in memory.values()


def test_a_new_suite_takes_fp16(workplace: Workplace) -> None:
    old, new = with_gpus(workplace, "t4"), with_gpus(workplace, "a100")
    for place, name, bf16 in ((old, "old.yaml", False), (new, "new.yaml", True)):
        assert place.call("init", name).code == 0
        text = (place.folder / name).read_text(encoding="utf-8")
        assert ("\n  - bf16\n" in text) is bf16
        assert ("\n  - nf4: {compute_dtype: fp16}\n" in text) is not bf16
    plan = old.call("plan", "old.yaml", "--device", "cuda")
    assert plan.code == 0, plan.errors
    assert WORDS not in " ".join(plan.output.split())


def test_fit_goes_by_the_capability_that_is_told(workplace: Workplace) -> None:
    place = with_gpus(workplace, "sample")
    both = ("--precision", "bf16", "--precision", "fp16")
    done = place.call("fit", "bundled:tiny-mistral", *both, "--format", "json")
    assert done.code == 0, done.errors
    table = json.loads(done.output)
    assert table["gpu"]["name"] == "NVIDIA Graphics Device"
    rows = [row["precision"] for row in table["rows"] if row["use"] == "inference"]
    assert rows == ["fp16", "bf16"]
