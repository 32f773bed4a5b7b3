"""The CPU and the machine's memory: names, cores, threads, features. No torch."""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.spec import slugify

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU_FEATURES = (
    "avx2",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)
"""Instruction sets that choose kernels, as Linux names them."""
MULTIPLY_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Those of them that multiply bf16; the last is ARM's."""


def cpu_device() -> str:
    """The CPU as records name it: `Intel Xeon (2 cores)`."""
    cores = usable_cores()
    return f"{_cpu_name()} ({cores} {'core' if cores == 1 else 'cores'})"


def cpu_kind() -> str:
    """The CPU as a folder name: `cpu-intel-xeon-2c`."""
    return f"cpu-{slugify(_cpu_name()).lower()}-{usable_cores()}c"


def clean_cpu_name(name: str) -> str:
    """A CPU's name without marks and clock: `Intel(R) Xeon(R) Processor` is `Intel Xeon`."""
    name = re.sub(r"\((?:R|TM|C)\)|[®™]", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"@.*$|\b\d+-Core\b|\b(?:Processor|CPU)\b", " ", name)
    return " ".join(name.split())


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(usable_cpus())


def usable_cpus() -> frozenset[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def compute_threads() -> int:
    """Threads that torch will compute with: `OMP_NUM_THREADS`, else one a usable core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wanted) if wanted.isdigit() and int(wanted) else usable_cores()


def machine_memory_bytes() -> int | None:
    """Memory of the machine, or of its container where that is less."""
    limits = [*_cgroup_limits_bytes()]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in limits if limit > 0), default=None)


def cpu_features() -> tuple[str, ...]:
    """Instruction sets of the CPU that choose kernels, in the order of `CPU_FEATURES`."""
    info = _cpu_info()
    # x86 calls them flags, ARM Features.
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(feature for feature in CPU_FEATURES if feature in flags)


@cache
def _cpu_info() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields


def _cpu_name() -> str:
    name = clean_cpu_name(_cpu_info().get("model name") or platform.processor())
    return name or platform.machine() or "CPU"


def _cgroup_limits_bytes() -> Iterator[int]:
    """Memory limits of the control groups that this process is in, from both versions of them."""
    if sys.platform != "linux":
        return
    root = Path("/sys/fs/cgroup")
    files = [root / "memory" / "memory.limit_in_bytes", root / "memory.max"]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2: a group's limit binds all groups below it
            group = root / path.lstrip("/")
            files += [folder / "memory.max" for folder in (group, *group.parents)]
    for file in files:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdigit():
            yield int(text)
