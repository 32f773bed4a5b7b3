"""The machine's GPUs, asked for through NVML.

It knows them without claiming their memory: the process that plans and waits must not hold a CUDA
context.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.core.spec import slugify

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch would see, in its order."""

    name: str
    uuid: str
    memory_bytes: int | None
    capability: tuple[int, int] | None = None
    """CUDA's compute capability."""


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


def driver_version() -> str | None:
    """Version of the GPUs' driver; None without one."""
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
