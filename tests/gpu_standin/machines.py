"""Machines with GPUs that are not there: qbench's commands under the stand-in for CUDA and NVML.

    place = with_gpus(workplace, "h100")              # a card of `standin/gpu_cards.py`
    place = with_gpus(workplace, "t4", "t4", CUDA_VISIBLE_DEVICES="1")
    place = with_gpus(workplace, "a100", GPU_STANDIN_FAULTS="old-driver")
    done = place.call("run", "suite.yaml", "--device", "cuda")

Everything that the command starts is under it, too. Tensors lie on the CPU but say that they lie
on `cuda:N`; mixing devices, an unknown device, and initialising CUDA in a fork of a process that
did so fail as on CUDA; the allocator's figures are counted. `standin/gpu_tensors.py` says what is
not shown. A test of what happens within a process runs a script with `place.environment`, as
`test_standin.py` does.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

STANDIN = Path(__file__).parent / "standin"


def with_gpus(place: Workplace, *cards: str, **environment: str) -> Workplace:
    """The same place on a machine with these cards; all are visible unless the variable is given.

    `environment` is added; `GPU_STANDIN_LOG` names a file that gets a line for each process that
    initialises CUDA (its id and who asked), `GPU_STANDIN_FAULTS` what is wrong with the machine.
    """
    packages = _describe_torch(place.folder / "packages-with-cuda")
    paths = [str(STANDIN), str(packages), *filter(None, sys.path)]
    every = ",".join(map(str, range(len(cards))))
    return place.with_environment(
        **{
            "CUDA_VISIBLE_DEVICES": every,
            "GPU_STANDIN": ",".join(cards),
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        }
    )


def measured(place: Workplace, device: str) -> dict[str, Record]:
    """The suite's records on a device by cell, all of them `ok`."""
    done = place.call("run", "suite.yaml", "--device", device, "--fresh")
    records = place.records().values()
    reasons = {record.cell.slug: record.reason for record in records if record.status != "ok"}
    assert (done.code, reasons) == (0, {}), done.output + done.errors
    kind = "cpu" if device == "cpu" else "cuda"
    return {one.cell.precision.label: one for one in records if one.environment.device_type == kind}


def _describe_torch(packages: Path) -> Path:
    """A folder by which torch's version does not say that it was built for CPUs."""
    name = version("torch").partition("+")[0]
    described = packages / f"torch-{name}.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: torch\nVersion: {name}\n"
    (described / "METADATA").write_text(text, encoding="utf-8")
    return packages
