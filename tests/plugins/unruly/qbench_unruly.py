"""A plug-in package whose measurement and precisions misbehave in every way that a run survives.

With `UNRULY_CALM` in the environment they behave, as a machine does once its trouble is over.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.plugin import (
    Frozen,
    Item,
    Measurement,
    MeasurementError,
    MetricDefinition,
    NonFiniteError,
    NoOptions,
    Outcome,
    Precision,
    Verification,
    load_pretrained,
    make_metric,
    static_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from qbench.plugin import (
        Checkpoint,
        Environment,
        LoadedModel,
        ModelShape,
        ResolvedModel,
        StaticBytes,
    )

METRICS = (
    MetricDefinition(name="unruly", unit="1", better="neither", title="unruly", formula="1"),
)


def _refuse() -> None:
    raise MeasurementError("the moon is not full; wait a fortnight")


def _machine_memory() -> None:
    raise MemoryError


def _device_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")


def _accelerator_memory() -> None:
    import torch

    raise torch.AcceleratorError("CUDA error: out of memory")


def _native_memory() -> None:
    """As bitsandbytes' library does."""
    sys.stderr.write("Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp\n")
    sys.stderr.flush()
    os._exit(1)


def _not_finite() -> None:
    raise NonFiniteError("3 of 7 values are not finite")


def _raise() -> None:
    raise ZeroDivisionError("nothing to divide by")


def _lose_the_gpu() -> None:
    import torch

    error = torch.AcceleratorError if hasattr(torch, "AcceleratorError") else RuntimeError
    _lost.append(True)
    raise error("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")


def _use_the_gpu() -> None:
    """Fails as everything does in a process that has lost its GPU."""
    if _lost:
        _lose_the_gpu()


_lost: list[bool] = []


def _segfault() -> None:
    ctypes.string_at(0)


def _be_killed() -> None:
    tempfile.mkdtemp(prefix="unruly-")
    os.kill(os.getpid(), signal.SIGKILL)


def _be_loud() -> None:
    for number in range(20_000):
        sys.stdout.write(f"loud line {number}\n")


def _be_loud_and_exit() -> None:
    _be_loud()
    sys.stdout.flush()
    os._exit(3)


def _leave_children() -> None:
    """One of this process's group, one that has gone its own way, one whose parent has ended."""
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleeping)
    subprocess.Popen(sleeping, start_new_session=True)
    starting = f"import subprocess; subprocess.Popen({sleeping!r}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", starting], check=True)


def _sleep_with_a_child() -> None:
    _leave_children()
    time.sleep(600)


def _wait_for_the_test() -> None:
    """See `tests/waiting.py`."""
    folder = Path(os.environ["QBENCH_TEST_MARK"])
    (folder / "waiting").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)


ACTS: dict[str, Callable[[], None]] = {
    "fine": lambda: None,
    "refuses": _refuse,
    "machine-memory": _machine_memory,
    "device-memory": _device_memory,
    "accelerator-memory": _accelerator_memory,
    "native-memory": _native_memory,
    "not-finite": _not_finite,
    "raises": _raise,
    "loses-gpu": _lose_the_gpu,
    "uses-gpu": _use_the_gpu,
    "segfault": _segfault,
    "exits": lambda: os._exit(3),
    "leaves": lambda: sys.exit(5),
    "leaves-well": lambda: os._exit(0),
    "killed": _be_killed,
    "loud": _be_loud,
    "loud-exits": _be_loud_and_exit,
    "leaves-children": _leave_children,
    "infinite-series": lambda: None,
    "sleeps": _sleep_with_a_child,
    "late": lambda: None,
    "waits": _wait_for_the_test,
}


class UnrulyOptions(Frozen):
    """What it does."""

    acts: tuple[str, ...] = tuple(ACTS)
    """One item each."""


class Unruly(Measurement):
    """A measurement that misbehaves in the cell fp32."""

    name = "unruly"
    summary = "misbehaves"
    options = UnrulyOptions
    metrics = METRICS
    trusts_kernels = False

    def items(self, options: UnrulyOptions, model: ResolvedModel, base: Path) -> list[Item]:
        return [Item(measurement=self.name, slug=act, params={"act": act}) for act in options.acts]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        series = {}
        if loaded.cell.precision.name == "fp32" and not _calm():
            ACTS[item.params["act"]]()
            if item.params["act"] == "infinite-series":
                series = {"values": [1.0, float("inf"), float("nan")]}
        return Outcome(metrics=(make_metric(METRICS, "unruly", 1.0),), series=series)


@dataclass(frozen=True)
class Wayward(Precision):
    """fp32 by another name, whose loading misbehaves."""

    name: str
    act: Callable[[], None]
    needs_what_is_not_there: bool = False
    summary: str = "misbehaves while it is loaded"
    needs: tuple[str, ...] = ()
    options: type[Frozen] = NoOptions

    def unavailable(self, environment: Environment) -> str | None:
        return "needs a positronic brain; install one" if self.needs_what_is_not_there else None

    def storage(self, shape: ModelShape, options: NoOptions) -> StaticBytes:
        return static_bytes(shape, 4, linear=None)

    def load(self, checkpoint: Checkpoint, options: NoOptions) -> PreTrainedModel:
        if not _calm():
            self.act()
        return load_pretrained(checkpoint, dtype="fp32")

    def verify(self, model: PreTrainedModel, options: NoOptions) -> Verification:
        return Verification(details={"quantized_share": 0.0})


def _calm() -> bool:
    return bool(os.environ.get("UNRULY_CALM"))


UNRULY = Unruly()
PRECISIONS = (
    Wayward("positronic", ACTS["fine"], needs_what_is_not_there=True),
    Wayward("load-raises", _raise),
    Wayward("load-memory", _machine_memory),
    Wayward("load-crashes", _segfault),
)
