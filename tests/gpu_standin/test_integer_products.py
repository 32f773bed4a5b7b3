"""What torchao's products of 8-bit weights and activations really are on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
precisions: [w8a8]
reference: w8a8
measure:
  latency:
    batch: [1, 17]
    prompt_tokens: 17
    new_tokens: 2
    repeats: 1
    min_iterations: 1
    min_seconds: 0.01
"""


@pytest.mark.slow
def test_few_rows_are_told_to_be_multiplied_in_fp32(workplace: Workplace) -> None:
    place = with_gpus(workplace, "h100")
    place.write("suite.yaml", SUITE.format(model=place.model))
    done = place.call("run", "suite.yaml", "--device", "cuda")
    records = {record.item.params["batch"]: record for record in place.records().values()}
    assert done.code == 0, done.output + done.errors
    assert "up to 16 rows in fp32" in records[1].details["loaded"]["compute_dtype"]
    found = {
        batch: [record.details[name] for name in ("multiplied_in", "decode_multiplied_in")]
        for batch, record in records.items()
    }
    assert found == {1: ["int8", "fp32"], 17: ["int8", "int8"]}
    told = {
        batch: any("multiplied in fp32, not int8" in warning for warning in record.warnings)
        for batch, record in records.items()
    }
    assert told == {1: True, 17: False}
    assert "decode at batch 1 multiplied in fp32, not int8" in " ".join(done.output.split())
