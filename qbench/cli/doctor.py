"""What `qbench doctor` finds: one line a fact, with what follows from it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.core.cache import cache_folder, cache_size_bytes
from qbench.core.compilers import why_not_compiled_for_cpu, why_not_compiled_for_gpu
from qbench.core.environment import (
    detect_environment,
    device_fault,
    find_device,
    hub_reachable,
    why_not_the_gpu,
)
from qbench.core.errors import DeviceError
from qbench.core.gpu import gpu_probes
from qbench.core.nvml import nvml_refusals, visible_ids
from qbench.core.packages import EXTRAS, install_command, package_version
from qbench.core.processes import python_environment
from qbench.measures.roofline.energy import open_energy_meter
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.record import Environment

SUPPORTED_PYTHON = ((3, 11), (3, 13))
_OF_RUNS = {
    "serving": "servers under load, and tasks at servers, need it",
    "ray": "runs on a Ray cluster need it",
    "slurm": "runs on Slurm need it",
    "longcontext": "RULER and LongBench among lm-eval's tasks need it",
}
"""Extras that no precision needs, with what they are for."""
_TOLD = ("torch", "transformers", "accelerate", "bitsandbytes", "datasets")
"""Packages whose versions are told."""
_PROBE_TIMEOUT_S = 120
_BACKEND_PROBE = """
import json, sys
sys.modules["kernels"] = None
import torch
found = {"cuda": torch.cuda.is_available(), "threads": torch.get_num_threads()}
try:
    import bitsandbytes.cextension as extension
    found["backend"] = extension.BNB_BACKEND
    found["native"] = type(extension.lib).__name__ != "ErrorHandlerMockBNBNativeLibrary"
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """What was found at one place of this machine, right or wrong, and what follows from it."""

    state: Literal["ok", "warning", "problem"]
    place: str
    found: str
    follows: str | None = None


def examine(device: str | None = None) -> Iterator[Finding]:
    """Looks at Python, packages, device, energy, compiler, bitsandbytes, the hub and the cache."""
    yield _python()
    yield from _packages()
    try:
        chosen = find_device(device)
    except DeviceError as error:
        yield Finding("problem", "device", str(error))
        chosen = "cpu"
    environment = detect_environment(chosen)
    yield _device(chosen, device, environment)
    for refusal in nvml_refusals():
        yield Finding("warning", "gpu", refusal)
    yield _energy(chosen)
    yield _compiler(chosen)
    if package_version("torch") and package_version("bitsandbytes"):
        yield _backend()
    yield from _precisions(environment)
    yield from _extras()
    yield _hub()
    yield _cache()


def _python() -> Finding:
    fact = f"{platform.python_version()} ({sys.executable})"
    low, high = SUPPORTED_PYTHON
    if low <= sys.version_info[:2] <= high:
        return Finding("ok", "python", fact)
    supported = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
    return Finding("warning", "python", fact, f"qbench is tested on Python {supported}")


def _packages() -> Iterator[Finding]:
    for package in _TOLD:
        installed = package_version(package)
        if installed is not None:
            yield Finding("ok", package, installed)
            continue
        follows = install_command([package])
        if package == "torch":
            follows = f"nothing is measured without it; the rest works: {follows}"
        yield Finding("problem", package, "not installed", follows)


def _device(chosen: str, wanted: str | None, environment: Environment) -> Finding:
    memory = environment.device_memory_bytes
    size = "" if memory is None else f", {memory / 2**30:.0f} GiB"
    fact = f"{chosen}: {environment.device}{size} (records go to {environment.device_kind}/)"
    note = why_not_the_gpu(wanted)
    if note is not None:
        return Finding("warning", "device", fact, note)
    fault = None if chosen == "cpu" else device_fault(chosen)
    if fault is not None:
        return Finding("problem", "device", f"{fact}: {fault.found}", fault.remedy)
    if chosen == "cpu" and package_version("torch"):
        slow = [name for name, one in precisions().items() if one.slow_on_cpu]
        follows = f"all precisions run here; {' and '.join(slow)} are slow"
        return Finding("ok", "device", fact, follows)
    return Finding("ok", "device", fact if chosen == "cpu" else f"{fact}; a product there is right")


def _energy(device: str) -> Finding:
    """What tells the energy of the device, or why nothing does."""
    with gpu_probes([device]) as probes, open_energy_meter(device, probes.values()) as meter:
        if meter.method is not None:
            return Finding("ok", "energy", f"told by {meter.method}")
    return Finding("warning", "energy", f"not told: {meter.reason}", "joules have no value here")


def _compiler(device: str) -> Finding:
    """Whether torch.compile has the compiler that it starts."""
    why_not = why_not_compiled_for_cpu() if device == "cpu" else why_not_compiled_for_gpu()
    if why_not is None:
        return Finding("ok", "compiler", "there is one for torch.compile")
    return Finding("warning", "compiler", why_not, "`forward: compile` is skipped")


def _backend() -> Finding:
    """The back end of bitsandbytes, found in a process of its own: its import initialises CUDA."""
    topic = "bitsandbytes back end"
    try:
        finished = subprocess.run(
            [sys.executable, "-P", "-c", _BACKEND_PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
            env=python_environment(gpu=True, visible=visible_ids()),
        )
        found = json.loads(finished.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return Finding("problem", topic, f"torch cannot be imported ({type(error).__name__})")
    if "error" in found:
        *most, last = _of_bitsandbytes()
        follows = f"{', '.join(most)} and {last} cannot run; reinstall bitsandbytes"
        return Finding("problem", topic, found["error"], follows)
    if not found["native"]:
        follows = "4-bit precisions fall back to slow code; reinstall bitsandbytes"
        return Finding("warning", topic, f"{found['backend']}, native library missing", follows)
    return Finding("ok", topic, f"{found['backend']}, native library loaded")


def _of_bitsandbytes() -> list[str]:
    return [name for name, one in precisions().items() if "bitsandbytes" in one.needs]


def _precisions(environment: Environment) -> Iterator[Finding]:
    """Those that cannot run, by their reasons."""
    names: dict[str, list[str]] = {}
    for precision in precisions().values():
        reason = precision.unavailable(environment)
        if reason is not None:
            names.setdefault(reason, []).append(precision.name)
    for reason, alike in names.items():
        yield Finding("problem", ", ".join(alike), "cannot run here", reason)


def _extras() -> Iterator[Finding]:
    """Extras that are not all there; those of precisions stand with them."""
    for extra, what in _OF_RUNS.items():
        packages = (name for name, one in EXTRAS.items() if one == extra)
        lacking = [name for name in packages if package_version(name) is None]
        if lacking:
            found = f"not installed: {', '.join(lacking)}"
            follows = f"{what}: {install_command(lacking)}"
            yield Finding("warning", extra, found, follows)


def _hub() -> Finding:
    reachable, words = hub_reachable()
    if reachable:
        return Finding("ok", "hub", words)
    follows = "bundled models, local folders and models already cached work all the same"
    return Finding("warning", "hub", words, follows)


def _cache() -> Finding:
    size = cache_size_bytes()
    return Finding("ok", "cache", f"{cache_folder()}, {size / 2**20:.1f} MiB; safe to delete")
