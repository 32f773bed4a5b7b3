"""The machine that a run is on: its device, its packages, its memory. No torch.

GPUs are asked for through NVML, which knows them without claiming their memory: the process that
plans and waits must not hold a CUDA context.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.cpu import cpu_device, cpu_features, cpu_kind, machine_memory_bytes
from qbench.core.cuda_probe import cuda_fault
from qbench.core.errors import DeviceError
from qbench.core.record import Environment
from qbench.core.spec import slugify

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from qbench.core.errors import Problem


NUMERICS_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "peft",
    "torchao",
    "lm-eval",
    "datasets",
    "numpy",
)
"""Packages whose versions decide the numbers."""
LAYER_PACKAGES = ("gptqmodel", "optimum", "compressed-tensors")
"""Packages that hold the layers of some checkpoints which are already quantized: named in the
environment where they are installed."""

_GIT_TIMEOUT_S = 2.0
_HIDES_ALL = ("", "-1")
"""Values of `CUDA_VISIBLE_DEVICES` by which people hide all GPUs; others that do are mistakes."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch would see, in its order."""

    name: str
    uuid: str
    memory_bytes: int | None
    capability: tuple[int, int] | None = None
    """CUDA's compute capability."""


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
        qbench=_version("qbench") or "0+unknown",
        python=platform.python_version(),
        platform=f"{platform.system()}-{platform.machine()}",
        device=name,
        device_kind=kind,
        device_type="cpu" if device == "cpu" else "cuda",
        device_memory_bytes=memory_bytes,
        gpus_memory_bytes=each,
        capability=None if gpu is None else gpu.capability,
        versions=_versions(),
        git_revision=git_revision(Path.cwd()),
        cpu_features=cpu_features(),
        driver=None if device == "cpu" else _driver(),
    )


def missing_packages(needs: tuple[str, ...], environment: Environment) -> str | None:
    """Which of the packages are not installed, with the remedy; None if all are."""
    missing = [package for package in needs if version_in(package, environment) is None]
    if not missing:
        return None
    return f"needs {', '.join(missing)}: pip install {' '.join(missing)}"


def version_in(package: str, environment: Environment) -> str | None:
    """The version of a package that is in use; None without it.

    The environment names those that qbench's own code needs; of others it is looked up.
    """
    if package in environment.versions or package in (*NUMERICS_PACKAGES, *LAYER_PACKAGES):
        return environment.versions.get(package)
    return _version(package)


def _versions() -> dict[str, str | None]:
    found = {package: _version(package) for package in NUMERICS_PACKAGES}
    layers = {package: _version(package) for package in LAYER_PACKAGES}
    return found | {package: version for package, version in layers.items() if version is not None}


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs that torch would see, in its order; none without a driver.

    NVML counts by PCI bus, CUDA by speed unless `CUDA_DEVICE_ORDER=PCI_BUS_ID`, which workers get:
    on a machine with GPUs of several models the two agree only then.
    What NVML refuses to tell of is left out: see `nvml_refusals`.
    """
    return _look_at_gpus()[0]


@cache
def nvml_refusals() -> tuple[str, ...]:
    """A sentence for each GPU that NVML does not tell of, though it is there to be asked for.

    Or one that says that `CUDA_VISIBLE_DEVICES` leaves none.
    """
    return _look_at_gpus()[1]


def visible_ids() -> str | None:
    """What `CUDA_VISIBLE_DEVICES` must be for torch to number GPUs as `visible_gpus` does.

    None where it is so already. A GPU that NVML does not tell of is one to CUDA all the same, or is
    not, as where a job's control group withholds it: ids leave no doubt.
    """
    gpus = visible_gpus()
    return ",".join(gpu.uuid for gpu in gpus) if gpus and nvml_refusals() else None


def device_fault(device: str) -> Problem | None:
    """Why torch cannot compute on a GPU of `visible_gpus`, `cuda:0` or a later one; else None."""
    return cuda_fault(device, visible_ids())


def _look_at_gpus() -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The visible GPUs, and what NVML refuses."""
    gpus: list[Gpu] = []
    refused: dict[str, str] = {}
    with nvml() as library:
        if library is None:
            refusal = _nvml_refusal()
            return (), () if refusal is None else (refusal,)
        uuids = []
        for index in range(library.nvmlDeviceGetCount()):
            try:
                handle = library.nvmlDeviceGetHandleByIndex(index)
                uuids.append(str(library.nvmlDeviceGetUUID(handle)))
            except library.NVMLError as error:
                uuids.append(f"refused-{index}")  # it keeps its number
                refused[uuids[-1]] = (
                    f"NVML does not tell of GPU {index} ({error}); ask for permission, or choose"
                    " another GPU"
                )
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        chosen = select_visible(uuids, setting)
        if uuids and not chosen:
            there = "the GPU" if len(uuids) == 1 else f"all {len(uuids)} GPUs"
            return (), (f"CUDA_VISIBLE_DEVICES={setting} hides {there} of this machine",)
        for uuid in chosen:
            if uuid in refused:
                continue
            try:
                handle = library.nvmlDeviceGetHandleByUUID(uuid)
                name = str(library.nvmlDeviceGetName(handle))
            except library.NVMLError as error:
                refused[uuid] = f"NVML does not tell of {uuid} ({error}); `nvidia-smi -L` lists all"
                continue
            try:
                memory_bytes = int(library.nvmlDeviceGetMemoryInfo(handle).total)
            except library.NVMLError:
                memory_bytes = None
            gpus.append(Gpu(name, uuid, memory_bytes, _capability(library, handle)))
    return tuple(gpus), tuple(refused.values())


def _nvml_refusal() -> str | None:
    """Why NVML cannot be used where there is a driver; None where there is none."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        return f"NVML cannot be used ({error}); restart the machine, or reload the driver"
    pynvml.nvmlShutdown()
    return None


def _driver() -> str | None:
    with nvml() as library:
        version = library and _ask(library, "nvmlSystemGetDriverVersion")
    return None if version is None else str(version)


def _capability(library: Any, handle: Any) -> tuple[int, int] | None:
    found = _ask(library, "nvmlDeviceGetCudaComputeCapability", handle)
    return None if found is None else (int(found[0]), int(found[1]))


def _ask(library: Any, question: str, *arguments: Any) -> Any:
    """NVML's answer; None where it refuses, and of an NVML without such a question."""
    try:
        return getattr(library, question)(*arguments)
    except (library.NVMLError, AttributeError):
        return None


def select_visible(uuids: Sequence[str], setting: str | None) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` leaves of the GPUs with these ids, in the order it gives.

    Entries are indices, ids or their beginnings, or ids of parts of a GPU (`MIG-…`). As in CUDA,
    the first entry that names nothing ends the list, and a repeated one hides all.
    """
    if setting is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if re.fullmatch(r"\d+", entry):
            found = uuids[int(entry)] if int(entry) < len(uuids) else None
        elif entry.startswith("MIG-"):
            found = entry
        else:
            matching = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
            found = matching[0] if len(matching) == 1 else None
        if found is None:
            break
        if found in chosen:
            return []
        chosen.append(found)
    return chosen


def gpu_kind(name: str) -> str:
    """A GPU's name as a folder name: `NVIDIA H200` becomes `nvidia-h200`."""
    kind = slugify(name).lower()
    return kind if kind.startswith("nvidia") else f"nvidia-{kind}"


def git_revision(folder: Path) -> str | None:
    """Commit of a folder, `+` behind it when tracked files changed; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            # Reading must not take git's lock from under a user's own git command.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    revision = done.stdout.strip()
    return revision if done.returncode == 0 and revision else None


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
    torch = _version("torch")
    return torch if torch is not None and torch.endswith("+cpu") else None


@contextmanager
def nvml() -> Iterator[ModuleType | None]:
    """NVML while it is needed; None without its package or a driver."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
