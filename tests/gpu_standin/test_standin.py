"""The stand-in refuses what CUDA refuses, and counts what its allocator counts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

SCRIPT = """
import json, os, torch

def error(attempt):
    try:
        attempt()
    except Exception as error:
        return str(error)

held = torch.ones(100, 4, device="cuda")
other = held.to("cuda:1")
layer = torch.nn.Linear(4, 2).to(1)
layer(other).sum().backward()
found = {
    "places": [str(one.device) for one in (held, other, layer.weight.grad, held.cpu())],
    "bytes": torch.cuda.memory_allocated(0),
    "mixed": error(lambda: held + other),
    "on the cpu": error(lambda: held + torch.ones(100, 4)),
    "scalar": error(lambda: held + torch.tensor(1.0)),
    "missing": error(lambda: torch.ones(1, device="cuda:2")),
    "numpy": error(lambda: held.numpy()),
}
del held
found["bytes later"] = torch.cuda.memory_allocated(0)
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, str(error(lambda: torch.ones(1, device="cuda"))).encode())
    os._exit(0)
found["forked"] = os.read(reading, 4096).decode()
print(json.dumps(found))
"""


def test_what_cuda_refuses(workplace: Workplace) -> None:
    place = with_gpus(workplace, "t4", "h100")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["places"] == ["cuda:0", "cuda:1", "cuda:1", "cpu"]
    assert (found["bytes"], found["bytes later"]) == (2048, 0)  # 1600, in blocks of 512
    assert "at least two devices, cuda:0, cuda:1" in found["mixed"]
    assert "at least two devices, cpu, cuda:0" in found["on the cpu"]
    assert found["scalar"] is None
    assert "invalid device ordinal" in found["missing"]
    assert "can't convert cuda:0" in found["numpy"]
    assert "Cannot re-initialize CUDA in forked subprocess" in found["forked"]
