"""GPUs of two types in one run in Slurm: two columns, which share nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus
from tests.running.slurm_standin import install, scripts_of

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{}]
precisions: [fp32]
measure: {{memory: {{prompt_tokens: 8, new_tokens: 2}}}}
"""


def test_each_type_of_gpu_is_a_column(workplace: Workplace) -> None:
    place = with_gpus(workplace, "t4", **install(workplace.folder))
    place.write("suite.yaml", SUITE.format(place.model))
    done = place.call("run", "suite.yaml", "--on", "slurm", "--gpus", "h100,a100")
    assert done.code == 0, done.errors
    found = {(one.environment.device_kind, one.status) for one in place.records().values()}
    assert found == {("nvidia-h100-80gb-hbm3", "ok"), ("nvidia-a100-sxm4-80gb", "ok")}
    told = [line for text in scripts_of(place.folder) for line in text.splitlines()]
    assert told.count("#SBATCH --gres=gpu:h100:1") == 2  # a look, and the job
    assert told.count("#SBATCH --gres=gpu:a100:1") == 2
    assert "#SBATCH --exclusive" not in told
    same = place.call("run", "suite.yaml", "--on", "slurm", "--gpus", "h100,h100-sxm")
    assert same.code == 2
    assert "h100-sxm and h100 are both nvidia-h100-80gb-hbm3" in " ".join(same.errors.split())
    assert place.survivors() == []
