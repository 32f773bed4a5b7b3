"""What a job asks of Slurm, by the suite's section and the command's options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import DeviceError, UsageError
from qbench.core.reading import InvalidValueError
from qbench.plan.needs import gpus_needed
from qbench.plan.plan import make_plan
from qbench.plan.suite.cluster import GpuRequest, SlurmSection, gpu_request
from qbench.predict.devices import parse_memory
from qbench.running.executors.slurm.as_processes import UNHEARD

if TYPE_CHECKING:
    from qbench.plan.suite.suite import Suite

Resources = tuple[tuple[str, Any], ...]
"""What a job asks for, by submitit's names."""
AT_ONCE = 64
"""Jobs that wait or run at once, unless the suite says otherwise."""
_BEFORE_S = 15 * 60
"""Of a job's time limit, for what comes before its worker: imports, and the model's download."""
_LOOK_MINUTES = 20


def resources(suite: Suite, gpu: str | None, gpus: int, *, look: bool, local: bool) -> Resources:
    """What a job with so many GPUs of a type asks for, or one of a look; 0 for a CPU."""
    section = suite.cluster.slurm or SlurmSection()
    minutes = section.time or math.ceil((suite.timeout_s + _BEFORE_S) / 60)
    asked: dict[str, Any] = {
        "name": "qbench-look" if look else "qbench",
        "timeout_min": min(minutes, _LOOK_MINUTES) if look else minutes,
    }
    if local:
        setup = (UNHEARD, *section.setup) if section.setup else ()
        asked |= {"gpus_per_node": gpus, "local_setup": setup}
        return tuple(asked.items())
    exclusive = not gpus if section.exclusive is None else section.exclusive
    memory = "0" if exclusive else None  # all that the node has
    asked |= {
        "slurm_partition": section.partition,
        "slurm_account": section.account,
        "slurm_qos": section.qos,
        "slurm_constraint": section.constraint,
        "slurm_cpus_per_task": section.cpus,
        "slurm_mem": memory if section.memory is None else f"{section.memory}M",
        "slurm_exclusive": exclusive or None,
        "slurm_gres": ":".join(["gpu", *([gpu] if gpu else []), str(gpus)]) if gpus else None,
        "slurm_setup": section.setup or None,
        "slurm_array_parallelism": section.at_once or AT_ONCE,
        # srun would give a job one core of those that sbatch gave it, and nothing needs it.
        "slurm_use_srun": False,
    }
    return tuple((name, value) for name, value in asked.items() if value is not None)


def requests(
    section: SlurmSection, device: str | None, gpus: str | None
) -> list[GpuRequest | None]:
    """What each column's jobs ask for: GPUs of a type, or None for a CPU. Raises `UsageError`."""
    if device not in (None, "auto", "cpu", "cuda"):
        raise DeviceError(
            f"--device {device!r} with --on slurm: expected cpu or cuda; Slurm gives each job its"
            " GPU"
        )
    if gpus == "all":
        raise UsageError(
            "--gpus all with --on slurm: how many jobs run at once is for Slurm to say; name types"
            " of GPU, such as --gpus h100, or any with --device cuda"
        )
    written = section.gpus
    if gpus is not None:
        written = tuple(part.strip() for part in gpus.split(","))
    if device == "cpu" and gpus is not None:
        raise UsageError(f"found --device cpu and --gpus {gpus}; expected one of them")
    try:
        found = [gpu_request(one) for one in written]
    except InvalidValueError as error:
        raise UsageError(
            f"--gpus {gpus} with --on slurm: expected {error}, with commas between types"
        ) from error
    if device == "cpu" or not (found or device == "cuda"):
        return [None]
    kinds = [one.kind for one in found]
    twice = next((one for at, one in enumerate(kinds) if one in kinds[:at]), "")
    if twice != "":
        raise UsageError(f"--gpus {gpus}: found {twice or 'any type'} twice; name each type once")
    return [*found] or [GpuRequest(None, None)]


def several(suite: Suite, gpus: GpuRequest | None) -> int:
    """GPUs of a job whose model is laid over several; raises `UsageError` where nobody can say."""
    spread = [model.name for model in suite.models if model.device_map is not None]
    if gpus is None or not spread:
        return 1
    if gpus.each is not None:
        return gpus.each
    name = ", ".join(spread)
    unknown = (
        f"--on slurm: {name} is laid over several GPUs (device_map), and how many it needs is not"
        f" known for {gpus.kind or 'GPUs of any type'}; say how many: --gpus"
        f" {gpus.kind or 'h100'}:2"
    )
    try:
        memory = parse_memory(gpus.kind or "")
    except DeviceError as error:
        raise UsageError(unknown) from error
    found = gpus_needed(make_plan(suite, Path("results"), device="cpu", gpu=memory))
    if found is None:
        raise UsageError(unknown)
    return found
