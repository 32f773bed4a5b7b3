"""Where jobs can run: this machine, or an engine that knows others. One line an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.running.executors.this_machine import ThisMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.plan.suite.suite import Suite
    from qbench.running.executors.executor import Engine

    MakeEngine = Callable[[str, Suite, str | None, str | None], Engine]
    """Makes an engine from what `--on` says, the suite, `--device` and `--gpus`."""


def _ray(on: str, suite: Suite, device: str | None, gpus: str | None) -> Engine:
    from qbench.running.executors.ray.cluster import RayCluster

    return RayCluster(on, suite, device, gpus)


def _slurm(on: str, suite: Suite, device: str | None, gpus: str | None) -> Engine:
    from qbench.running.executors.slurm.cluster import Slurm

    return Slurm(on, suite, device, gpus)


_ENGINES: dict[str, MakeEngine] = {"ray": _ray, "slurm": _slurm}
"""By what `--on` says, up to a `:`."""


def engine_for(on: str | None, suite: Suite, *, device: str | None, gpus: str | None) -> Engine:
    """The engine that `--on` names; this machine for None. Raises `UsageError` for an unknown one.

    `device` and `gpus` are as on the command line; what they may be is for each engine to say.
    """
    if on is None:
        return ThisMachine(device, gpus=gpus)
    make = _ENGINES.get(on.partition(":")[0])
    if make is None:
        raise UsageError(
            f"--on {on!r}: no such place to run jobs; there is {', '.join(_ENGINES)}; leave --on"
            " out to run them on this machine"
        )
    return make(on, suite, device, gpus)
