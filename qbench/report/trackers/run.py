"""What a tracker calls a run: a cell on a kind of device, or the report on all cells there.

Its name and its id follow from what it is, so that a run of qbench goes on in the runs that an
earlier one made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.core.record import content_key
from qbench.report.rows import tuning_columns

if TYPE_CHECKING:
    from qbench.core.record import Environment, Record
    from qbench.core.spec import Cell

Param = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """A run of a tracker. Two that are equal but for their parameters are the same run."""

    suite: str
    device_kind: str
    cell: str | None
    """The cell's slug; None for the report on all of the suite's cells on the device."""
    rehearsal: bool = False
    """Whether its numbers are those of a rehearsal's replacements."""
    params: dict[str, Param] = field(default_factory=dict, compare=False)
    """What makes the cell: model, precision, options, tuning, device, versions."""

    @property
    def name(self) -> str:
        """For people; unique within the suite."""
        return (
            f"{self.cell or 'report'} on {self.device_kind}"
            f"{' (rehearsal)' if self.rehearsal else ''}"
        )

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same whenever and wherever it is asked for."""
        return content_key(
            {
                "suite": self.suite,
                "device_kind": self.device_kind,
                "cell": self.cell,
                "rehearsal": self.rehearsal,
            }
        )

    @property
    def report(self) -> TrackedRun:
        """The run of the report that this one's cell stands in."""
        return TrackedRun(self.suite, self.device_kind, None, self.rehearsal)


def run_of_cell(suite: str, cell: Cell, environment: Environment, *, rehearsal: bool) -> TrackedRun:
    """The run of a cell that is measured, or will be, in an environment."""
    kind = environment.device_kind
    return TrackedRun(suite, kind, cell.slug, rehearsal, _params(cell, environment))


def run_of_record(record: Record) -> TrackedRun:
    """The run of the cell that a record is of."""
    return run_of_cell(
        record.suite, record.cell, record.environment, rehearsal=bool(record.rehearsal)
    )


def _params(cell: Cell, environment: Environment) -> dict[str, Param]:
    tuning = cell.tuning
    told: dict[str, Any] = {
        "model": cell.model.name,
        "model_source": cell.model.source,
        "precision": cell.precision.name,
        "label": cell.label,
        **_named("precision", cell.precision.options_by_contents),
        "kv_cache": cell.kv_cache,
        **tuning_columns(cell),
        **_named("tuning", {} if tuning is None else tuning.options),
        "device": environment.device,
        "device_kind": environment.device_kind,
        "driver": environment.driver,
        "platform": environment.platform,
        "python": environment.python,
        "qbench": environment.qbench,
        "git_revision": environment.git_revision,
        **_named("version", environment.versions),
    }
    return {name: _plain(value) for name, value in told.items() if value is not None}


def _named(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _plain(value: Any) -> Param:
    if isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, sort_keys=True, default=str)
