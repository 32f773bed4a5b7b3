"""The linear layers on a GPU: what is timed beside them, and which kernel runs for one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
precisions: [bf16, w8a8]
measure:
  kernels: {{rows: [1], repeats: 1, min_seconds: 0.005}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("card", ["h100", "t4"])
def test_layers_of_a_gpu_are_timed_beside_bf16_alone(workplace: Workplace, card: str) -> None:
    place = with_gpus(workplace, card)
    place.write("suite.yaml", SUITE.format(model=place.model))
    done = place.call("run", "suite.yaml", "--device", "cuda")
    assert done.code == 0, done.output + done.errors
    records = place.records().values()
    kernels = {
        record.cell.label: {size["kernel"] for size in record.details["sizes"]}
        for record in records
    }
    # CUDA's kernel for products of 8-bit integers takes more than 16 rows.
    assert kernels == {"bf16": {"plain"}, "w8a8": {"fall-back"}}
    for record in records:
        assert record.status == "ok", record.reason
        beside = record.metric("kernels.ratio.fp32")
        assert beside is not None
        assert beside.value is None
        assert "on a CPU alone" in (beside.reason or "")
        assert (record.value("kernels.ratio") or 0) > 0
        without = any("this GPU does not multiply bf16" in one for one in record.warnings)
        assert without is (card == "t4")
    assert "slower than fp32" not in done.output
