"""The machine that a run is on: its device, its packages, its memory. No torch."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from qbench.core.cpu import cpu_device, cpu_features, cpu_kind, machine_memory_bytes
from qbench.core.cuda_probe import cuda_fault
from qbench.core.errors import DeviceError, Problem
from qbench.core.git import git_revision
from qbench.core.nvml import driver_version, gpu_kind, nvml_refusals, visible_gpus, visible_ids
from qbench.core.packages import (
    install_command,
    package_version,
    qbench_version,
    versions_in_use,
)
from qbench.core.record import Environment

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_DYNAMIC",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_SCHEDULE",
    "OMP_THREAD_LIMIT",
    "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "KMP_HW_SUBSET",
    "KMP_LIBRARY",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)
_CUDA_VARIABLES = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUDA_LAUNCH_BLOCKING",
)
"""What users, images and qbench itself set that changes the numbers, the memory or the speed: of
all devices, and of a GPU."""
_HIDES_ALL = ("", "-1")
"""Values of `CUDA_VISIBLE_DEVICES` by which people hide all GPUs; others that do are mistakes."""


def find_device(wanted: str | None) -> str:
    """The device as torch names it.

    `wanted` is `cpu`, `cuda`, `cuda:N`, or None or `auto`: the first GPU if torch can compute there
    (`why_not_the_gpu` says why not), else the CPU. Raises `DeviceError`, naming what there is, for
    a device that this machine does not have.
    """
    choice = (wanted or "auto").strip().lower()
    if choice == "cpu":
        return "cpu"
    gpus = visible_gpus()
    without_cuda = _torch_without_cuda()
    usable = () if without_cuda else gpus
    if choice == "auto":
        return "cuda:0" if usable and device_fault("cuda:0") is None else "cpu"
    match = re.fullmatch(r"cuda(?::(\d+))?", choice)
    if match is None:
        raise DeviceError(f"device {wanted!r}: expected auto, cpu, cuda or cuda:N; {_there_is()}")
    if gpus and without_cuda:
        raise DeviceError(
            f"device {wanted!r}: there is {gpus[0].name}, but torch {without_cuda} was built"
            " without CUDA; install a torch with CUDA, or use cpu"
        )
    index = int(match[1] or 0)
    if index >= len(usable):
        raise DeviceError(f"device {wanted!r}: not on this machine; {_there_is()}; use one of them")
    return f"cuda:{index}"


def why_not_the_gpu(wanted: str | None) -> str | None:
    """Why `auto` takes the CPU on a machine that has a GPU; None where it does not."""
    if (wanted or "auto").strip().lower() != "auto":
        return None
    gpus, refusals = visible_gpus(), nvml_refusals()
    if not gpus:
        if os.environ.get("CUDA_VISIBLE_DEVICES", "?").strip() in _HIDES_ALL:
            return None
        return f"{'; '.join(refusals)}: running on the CPU" if refusals else None
    without_cuda = _torch_without_cuda()
    if without_cuda:
        return (
            f"there is {gpus[0].name}, but torch {without_cuda} was built without CUDA: running on"
            " the CPU; install a torch with CUDA to use it"
        )
    fault = device_fault("cuda:0")
    if fault is None:
        return None
    return f"running on the CPU, not on {gpus[0].name}: {fault.found}; {fault.remedy}"


def detect_environment(device: str) -> Environment:
    """The conditions that records are taken under, on a device that `find_device` has named."""
    gpu = None
    each: tuple[int, ...] = ()
    if device == "cpu":
        name, kind, memory_bytes = cpu_device(), cpu_kind(), machine_memory_bytes()
    else:
        gpus = visible_gpus()
        index = int(device.partition(":")[2] or 0)
        if index >= len(gpus):
            raise DeviceError(f"device {device!r}: not on this machine; {_there_is()}")
        gpu = gpus[index]
        name, kind, memory_bytes = gpu.name, gpu_kind(gpu.name), gpu.memory_bytes
        each = tuple(one.memory_bytes for one in gpus if one.memory_bytes is not None)
        each = each if len(each) == len(gpus) else ()
    return Environment(
        qbench=qbench_version(),
        python=platform.python_version(),
        platform=f"{platform.system()}-{platform.machine()}",
        device=name,
        device_kind=kind,
        device_type="cpu" if device == "cpu" else "cuda",
        device_memory_bytes=memory_bytes,
        gpus_memory_bytes=each,
        capability=None if gpu is None else gpu.capability,
        versions=versions_in_use(),
        git_revision=git_revision(Path.cwd()),
        cpu_features=cpu_features(),
        driver=None if device == "cpu" else driver_version(),
    )


def variables_known(device_type: str = "cuda") -> tuple[str, ...]:
    """Names of the environment variables that change numbers, memory or speed on a device."""
    return (*_VARIABLES, *(_CUDA_VARIABLES if device_type == "cuda" else ()))


def variables_set(device_type: str) -> dict[str, str]:
    """Those of them that this process has."""
    return {name: os.environ[name] for name in variables_known(device_type) if name in os.environ}


def device_fault(device: str) -> Problem | None:
    """Why torch cannot compute on a GPU of `visible_gpus`, `cuda:0` or a later one; else None."""
    if package_version("torch") is None:
        return Problem(device, "torch is not installed", remedy=install_command(["torch"]))
    return cuda_fault(device, visible_ids())


def hub_reachable(timeout_s: float = 3.0) -> tuple[bool, str]:
    """Whether the hub answers, and a sentence that says so; any answer counts but a failure."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False, "HF_HUB_OFFLINE is set: only local, bundled and downloaded models"
    if not endpoint.startswith(("http://", "https://")):
        return False, f"HF_ENDPOINT is {endpoint!r}; expected an http or https address"
    from http import HTTPStatus
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=timeout_s):  # noqa: S310 (checked)
            return True, f"{endpoint} answers"
    except HTTPError as error:
        if error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return True, f"{endpoint} answers"
        return False, f"{endpoint} answers with {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return False, f"{endpoint} cannot be reached ({reason})"


def _there_is() -> str:
    gpus = visible_gpus()
    names = [f"cuda:{index} ({gpu.name})" for index, gpu in enumerate(gpus)]
    return "; ".join([f"there is {', '.join(['cpu', *names])}", *nvml_refusals()])


def _torch_without_cuda() -> str | None:
    """The version of an installed torch that says of itself that it is for CPUs only."""
    torch = package_version("torch")
    return torch if torch is not None and torch.endswith("+cpu") else None
