"""Whether torch can compute on a GPU: a small product there, checked, in a process of its own.

NVML alone says that all is well where the driver is too old for torch's CUDA, where torch was built
without it, or without kernels for the card. And the process that plans must not initialise CUDA.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache

from qbench.core.errors import Problem
from qbench.core.processes import python_environment

TIMEOUT_S = 120
_SCRIPT = """
import json, sys
sys.modules["kernels"] = None
found = {}
try:
    import torch
    found = {"torch": torch.__version__, "cuda": torch.version.cuda}
    side = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64) % 7
    product = (side.to(sys.argv[1]) @ side.to(sys.argv[1])).cpu()
    found["right"] = torch.equal(product, side @ side)
except Exception as error:
    found["error"] = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
print(json.dumps(found))
"""
_REMEDIES = (
    (
        "not compiled with CUDA",
        "install a torch with CUDA (https://pytorch.org)",
    ),
    (
        "driver on your system is too old|driver version is insufficient",
        "update the driver, or install a torch for an older CUDA (https://pytorch.org)",
    ),
    (
        "no kernel image",
        "install a torch that was built for this card (`torch.cuda.get_arch_list()` names those)",
    ),
    ("out of memory", "end what runs there (`nvidia-smi` names it)"),
    ("busy or unavailable", "end what runs there, or set the compute mode to default"),
)
_REMEDY = "see whether `nvidia-smi` works; restarting the machine or the container often helps"


@cache
def cuda_fault(device: str, visible: str | None = None) -> Problem | None:
    """Why torch cannot compute on a device such as `cuda:0`; None if it can.

    `visible` takes the place of `CUDA_VISIBLE_DEVICES`: see `nvml.visible_ids`.
    Takes the seconds of importing torch elsewhere, once for this process.
    """

    def problem(found: str, remedy: str = _REMEDY) -> Problem:
        return Problem(device, found, remedy=remedy)

    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _SCRIPT, device],
            env=python_environment(gpu=True, visible=visible),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        found = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    except subprocess.TimeoutExpired:
        return problem(f"a small product there did not end within {TIMEOUT_S} s")
    except (OSError, ValueError) as error:
        return problem(f"torch could not be tried there ({error})")
    if "error" in found:
        reason = f"torch {found.get('torch') or ''} says: {found['error']}".replace("  ", " ")
        known = (words for text, words in _REMEDIES if re.search(text, found["error"]))
        return problem(reason, next(known, _REMEDY))
    if "right" not in found:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return problem(f"the process that tried torch ended with {done.returncode}: {said}")
    if not found["right"]:
        return problem("a small product there came out wrong", "have the card looked at")
    return None
