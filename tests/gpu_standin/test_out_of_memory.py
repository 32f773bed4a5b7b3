"""A GPU that is too small, wherever that is found."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

MIB, GIB = 2**20, 2**30
SUITE = """\
models: [bundled:tiny-mistral]
precisions: [fp32, nf4]
measure: {footprint: }
"""
SCRIPT = """
import torch
from qbench.core.errors import is_out_of_memory

said = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")
held = torch.ones(1, device="cuda")
print(is_out_of_memory(said))
"""


def with_free(place: Workplace, free_bytes: int) -> Workplace:
    """A T4 of which others hold all but this."""
    used = 14.5 * GIB - free_bytes
    return with_gpus(place, "t4", GPU_STANDIN_USED=str(int(used)))


def test_what_does_not_fit_is_out_of_memory(
    workplace: Workplace,
) -> None:
    place = with_free(workplace, 2 * MIB)
    place.write("suite.yaml", SUITE)
    place.call("run", "suite.yaml", "--device", "cuda", "--yes")
    found = {record.cell.precision.label: record for record in place.records().values()}
    assert {label: record.status for label, record in found.items()} == {
        "fp32": "oom",
        "nf4": "oom",
    }
    for record in found.values():
        assert record.reason is not None
        assert "CUDA out of memory" in record.reason


def test_cublas_that_is_not_initialized_on_a_full_gpu(workplace: Workplace) -> None:
    answers = {}
    for free in (MIB, GIB):
        place = with_free(workplace, free)
        answers[free] = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=place.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    assert answers == {MIB: "True", GIB: "False"}
