"""Every error that qbench raises on purpose.

    QbenchError
    ├── UsageError              the user can mend it: exit code 2
    │   ├── SuiteError          a suite file: all its problems at once
    │   ├── ModelError          a model that cannot be found, read or fetched
    │   ├── TextError           an evaluation text that cannot be found, read or fetched
    │   ├── DeviceError         a device that this machine does not have
    │   ├── StoreError          a results folder or a record file
    │   └── PreflightError      what stands in the way of a run, all of it on one page
    └── MeasurementError        a measurement that failed: becomes a record, the others go on
        ├── OutOfMemoryError    status `oom`
        ├── NonFiniteError      status `nan`
        └── WrongKernelError    status `error`: a loaded layer does not hold what its codes say

A message names the place, what was found, what was expected and what to do.
"""

from __future__ import annotations

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
    """One thing wrong with a suite: where it stands, what was found, expected, and the remedy."""

    file: str
    path: str
    """Dotted path of the key within the file, such as `measure.quality.window`."""
    found: str
    expected: str | None
    """None where `found` already says what was expected and what to do."""
    line: int | None = None
    """1-based line in the file; None when the problem has no place of its own."""
    remedy: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        where = f"{place}: {self.path}" if self.path else place
        if self.expected is None:
            return f"{where}: {self.found}"
        text = f"{where}: found {self.found}; expected {self.expected}"
        return f"{text}; {self.remedy}" if self.remedy else text


class SuiteError(UsageError):
    """A suite that cannot be used, with all its problems."""

    def __init__(self, problems: Sequence[Problem], readable: object = None) -> None:
        self.problems = tuple(problems)
        self.readable = readable
        """The suite that is left without what is wrong; None where nothing can be read."""
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MeasurementError(QbenchError):
    """A measurement failed for a reason that is known by name."""

    status: Literal["error", "nan", "oom"] = "error"


class OutOfMemoryError(MeasurementError):
    """The device or the machine had no memory left."""

    status = "oom"


class NonFiniteError(MeasurementError):
    """The model gave infinite or not-a-number values."""

    status = "nan"


class WrongKernelError(MeasurementError):
    """A quantized layer computes something else than its codes and constants say."""
