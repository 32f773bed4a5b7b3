"""Every error that qbench raises on purpose.

    QbenchError
    ├── UsageError              the user can fix it: exit code 2
    │   ├── SuiteError          a suite file: all its problems at once
    │   ├── ModelError          a model that cannot be found, read or fetched
    │   ├── TextError           an evaluation text that cannot be found, read or fetched
    │   ├── DeviceError         a device that this machine does not have
    │   ├── StoreError          a results folder or a record file
    │   └── PreflightError      what would prevent a run, all of it on one page
    └── MeasurementError        a measurement that failed: becomes a record, the others continue
        ├── OutOfMemoryError    status `oom`
        ├── NonFiniteError      status `nan`
        ├── WrongKernelError    status `error`: a loaded layer does not hold what its codes say
        ├── NotKeptError        status `error`: what others need cannot be written to the cache
        └── ProcessFailedError  a process that a measurement started failed: its own status

A message names the place, what was found, what was expected and what to do.
"""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


class QbenchError(Exception):
    """Anything qbench raises on purpose; its text is written for the user."""


class UsageError(QbenchError):
    """What the user gave cannot be used; the message says what to do."""


class ModelError(UsageError):
    """A model that cannot be found, read or fetched."""


class TextError(UsageError):
    """A text that cannot be found, read or fetched."""


class DeviceError(UsageError):
    """A device that this machine does not have."""


class StoreError(UsageError):
    """A results folder or a record file that cannot be read or written."""


class PreflightError(UsageError):
    """What was found on the machine before a run, with what to do about each."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it."""

    place: str
    """What it is about: a key of a suite such as `measure.quality.window`, an option, a part of the
    machine such as `disk`; empty for the whole file."""
    found: str
    expected: str | None = None
    """None where `found` already says it."""
    remedy: str | None = None
    """None where `found` and `expected` already say what to do."""
    file: str | None = None
    """The file that it stands in; None for what stands in none."""
    line: int | None = None
    """1-based line in the file; None when the problem has no line of its own."""

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        parts = [f"{self.file}{line}"] if self.file is not None else []
        parts += [self.place] if self.place else []
        text = self.found
        if self.expected is not None:
            text = f"found {self.found}; expected {self.expected}"
        return ": ".join((*parts, f"{text}; {self.remedy}" if self.remedy else text))


class SuiteError(UsageError):
    """A suite that cannot be used, with all its problems."""

    def __init__(self, problems: Sequence[Problem], readable: object = None) -> None:
        self.problems = tuple(problems)
        self.readable = readable
        """The suite that is left without what is wrong; None where nothing can be read."""
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MeasurementError(QbenchError):
    """A measurement failed for a reason that is known by name."""

    status: Literal["error", "nan", "oom", "crash", "timeout"] = "error"
    log_tail: str | None = None
    """The last lines of the log of a process that failed; None where it was this one."""
    phase: str | None = None
    """What that process was at; None where it was this one."""


class OutOfMemoryError(MeasurementError):
    """The device or the machine had no memory left."""

    status = "oom"


class NonFiniteError(MeasurementError):
    """The model gave infinite or not-a-number values."""

    status = "nan"


class WrongKernelError(MeasurementError):
    """A quantized layer computes something else than its codes and constants say."""


class NotKeptError(MeasurementError):
    """Something that other cells need, or a rerun, cannot be written to the cache."""


class ProcessFailedError(MeasurementError):
    """A process that a measurement started failed, or ended before its time, or gave no answer.

    Or a server that runs elsewhere did.
    """

    def __init__(
        self,
        status: Literal["error", "nan", "oom", "crash", "timeout"],
        reason: str,
        *,
        log_tail: str | None,
        phase: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.log_tail = log_tail
        self.phase = phase


LITTLE_BYTES = 2**29
"""Free memory of a GPU below which a library that cannot begin there has found too little."""

_NO_MEMORY = re.compile(
    r"""
    out[ ]of[ ]memory | OUT_OF_MEMORY            # torch's allocator, CUDA's runtime, its driver
    | _STATUS_ALLOC_FAILED                       # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
    | ALLOCATION_FAILED | INSUFFICIENT_RESOURCES # cuDNN 9, cuSPARSE
    | NVML_SUCCESS[ ]==.*INTERNAL[ ]ASSERT       # torch asks NVML when its allocator finds nothing
    | (?:can't|cannot|unable[ ]to)[ ]allocate(?!.*static[ ]TLS) | not[ ]enough[ ]memory
    | bad_alloc | bad[ ]allocation
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CANNOT_BEGIN = re.compile(r"_STATUS_NOT_INITIALIZED|unable to find an engine", re.IGNORECASE)


def names_no_memory(text: str) -> bool:
    """Whether a library's message says that memory was lacking."""
    return _NO_MEMORY.search(text) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the machine had no memory left.

    Libraries raise it as many types, or as a message alone; where they find no room for themselves
    on a GPU, cuBLAS and cuDNN say that they are not initialized.
    """
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, QbenchError):
        return False
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error)
    return names_no_memory(text) or (_CANNOT_BEGIN.search(text) is not None and _gpu_is_full())


def _gpu_is_full() -> bool:
    """Whether the GPU in use has next to nothing free, as far as it still answers."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        return bool(torch.cuda.mem_get_info()[0] < LITTLE_BYTES)
    except RuntimeError:
        return False
