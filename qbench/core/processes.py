"""How qbench starts Python processes of its own: they see the same modules as this one."""

from __future__ import annotations

import os
import sys

SHORT_WAITS = {
    "GOMP_SPINCOUNT": ("10000", {"OMP_WAIT_POLICY"}),
    "KMP_BLOCKTIME": ("1", {"OMP_WAIT_POLICY", "KMP_LIBRARY"}),
}
"""How long threads of OpenMP spin before they sleep: of GNU's library and of LLVM's and Intel's,
with the variables by which a user may have chosen otherwise.

By default they spin for milliseconds, on a core that another program, or the thread that they wait
for, may need: beside a busy process a forward pass of a small model then takes several times as
long. This is the shortest spin that costs nothing on a quiet machine, where a shorter one, and
passive waiting the more, slows the decoding of single tokens. docs/running.md has the figures.
"""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Of a process whose model was fetched before: it asks no hub and tells none."""


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module; a file in the current folder cannot take its place."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment(*, gpu: bool, visible: str | None = None) -> dict[str, str]:
    """This process's environment variables, with its module path, and GPUs hidden unless wanted.

    `visible` takes the place of `CUDA_VISIBLE_DEVICES` where GPUs are wanted.
    CUDA counts GPUs as NVML does, so that what NVML says of one is said of the one in use. Where an
    image has NVIDIA's libraries compute fp32 in TF32, they are told not to. Threads of OpenMP wait
    as `SHORT_WAITS` says, which must stand before its library is loaded.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if "NVIDIA_TF32_OVERRIDE" in environment:
        environment["NVIDIA_TF32_OVERRIDE"] = "0"
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    for name, (value, rivals) in SHORT_WAITS.items():
        if not environment.keys() & rivals:
            environment.setdefault(name, value)
    return environment
