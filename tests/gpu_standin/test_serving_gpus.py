"""The GPU that a command's engine sees: the cell's own, for it takes the first."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

LOOK = """
import json, sys
from pathlib import Path
from qbench.core.nvml import visible_gpus
from qbench.measures.serving.starting import environment_for
from tests.measures.test_servers import cell_of
from tests.workplace import Workplace
from dataclasses import replace

place = Workplace(Path(sys.argv[1]), Path(sys.argv[2]))
cell = replace(cell_of(place), device=sys.argv[3])
found = {
    kind: environment_for(cell, foreign=kind == "command") for kind in ("command", "engine")
}
spread = cell.cell.model.model_copy(update={"device_map": "auto"})
cell = replace(cell, cell=cell.cell.model_copy(update={"model": spread}))
found["spread"] = environment_for(cell, foreign=True)
seen = {kind: one.get("CUDA_VISIBLE_DEVICES") for kind, one in found.items()}
print(json.dumps({"uuids": [gpu.uuid for gpu in visible_gpus()], **seen}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1", "cpu"])
def test_a_command_sees_the_gpu_of_its_cell(workplace: Workplace, device: str) -> None:
    place = with_gpus(workplace, "h100", "h100")
    command = [sys.executable, "-c", LOOK, str(place.folder), str(place.model), device]
    done = subprocess.run(
        command, env=place.environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    every = place.environment.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu":
        assert found["command"] == found["engine"] == found["spread"] == ""
        return
    assert found["command"] == found["uuids"][int(device[-1])]
    assert found["engine"] == found["spread"] == every
