"""The engine of this machine: one device of it, or several of its GPUs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from qbench.core.errors import UsageError
from qbench.core.nvml import visible_gpus
from qbench.running.executors.executor import Column
from qbench.running.executors.gpus import choose_gpus
from qbench.running.executors.local import LocalExecutor
from qbench.running.preflight.check import problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.plan.job import Job
    from qbench.plan.suite.suite import Suite
    from qbench.running.executors.executor import Asked, Executor, MakeExecutor, Slot


class ThisMachine:
    """Runs jobs here, each in a process of its own unless `make_executor` says otherwise."""

    def __init__(
        self,
        device: str | None = None,
        *,
        gpus: str | None = None,
        make_executor: MakeExecutor = LocalExecutor,
    ) -> None:
        """`device` is as for `make_plan`; `gpus`, instead of it, as for `choose_gpus`."""
        self._device = device
        self._gpus = gpus
        self._make_executor = make_executor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Executors end what they started."""

    def columns(self, asked: Asked) -> list[Column]:
        """One: all devices are of one kind. Raises `UsageError`, `DeviceError` among them."""
        devices = _side_by_side(asked.suite, self._gpus, self._device)
        plan = asked.plan_on(devices[0] if devices else self._device)
        return [Column(plan, devices or (plan.device,))]

    def problems(self, column: Column, jobs: Sequence[Job], results: Path) -> list[Problem]:
        """What `qbench.running.preflight` finds on all devices."""
        return problems(column.plan, jobs, results, more_devices=column.slots[1:])

    def executor(self, slot: Slot, jobs: Sequence[Job]) -> Executor:
        """That of the device which the slot is named after."""
        return self._make_executor(slot.name, jobs)


def _side_by_side(suite: Suite, gpus: str | None, device: str | None) -> tuple[str, ...]:
    """The devices that `--gpus` names; `UsageError` for a run that cannot be spread over them."""
    if gpus is None:
        return ()
    if device is not None:
        raise UsageError(
            f"found --device {device} and --gpus {gpus}; expected one of them: --gpus for cells"
            " side by side, --device for one after the other"
        )
    chosen = choose_gpus(gpus, visible_gpus())
    spread = [model.name for model in suite.models if model.device_map is not None]
    if spread and len(chosen) > 1:
        raise UsageError(
            f"--gpus {gpus}: {', '.join(spread)} is laid over all GPUs (device_map), so that no"
            " other cell can run beside it; leave --gpus out"
        )
    return chosen
