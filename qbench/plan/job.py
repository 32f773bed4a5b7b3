"""What one worker process gets: a cell, and the items that are still missing for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from qbench.core.record import Environment, Record, Status
from qbench.core.spec import Cell, Frozen, Item, ResolvedModel, StaticBytes
from qbench.core.untrusted import as_message, cleaned, visible
from qbench.predict.found_mix import FoundMix

_SAID = ("reason", "log_tail", "warnings")


class Task(Frozen):
    """An item with the key and place of the record that it will leave."""

    item: Item
    key: str
    identity: dict[str, Any]
    """What the key is the hash of."""
    path: str
    """The record's file."""
    skip: str | None = None
    """Why it is not taken, where the rest of its cell is; None if it is."""


class Job(Frozen):
    """A cell and what is to be measured of it in one process."""

    suite: str
    cell: Cell
    reference: bool
    """Whether the suite compares the model's other cells with this one."""
    model: ResolvedModel
    predicted: StaticBytes | None
    """Static bytes by arithmetic; None where the shapes are not known."""
    device: str
    """As torch names it: `cpu`, `cuda:0`."""
    environment: Environment
    tasks: tuple[Task, ...]
    artifact_key: str | None = None
    """Key of the training's record, which names the tuned model; None for an untuned cell."""
    sensitivities_key: str | None = None
    """Key of the reference's record whose table a mix is found from; None for any other cell."""
    found: FoundMix | None = None
    """The mix of a job in a worker, which its precision has a map of then."""
    trust_code: bool = False
    """Whether the suite lets Python of its tasks and metrics run."""
    rehearsal: tuple[str, ...] = ()
    """What the suite's rehearsal replaced and shortened; empty where it is none."""

    def record(
        self, task: Task, status: Status, *, started_at: str | None = None, **fields: Any
    ) -> Record:
        """The record of one of this job's tasks; `fields` are the rest of the record's own.

        What libraries, tasks and models said is cleaned here, as where a record is read.
        """
        said = {name: fields[name] for name in _SAID if fields.get(name)}
        fields |= {name: cleaned(value, as_message) for name, value in said.items()}
        if "details" in fields:
            fields["details"] = cleaned(fields["details"], visible)
        return Record(
            key=task.key,
            identity=task.identity,
            suite=self.suite,
            cell=self.cell,
            item=task.item,
            reference=self.reference,
            rehearsal=self.rehearsal,
            status=status,
            started_at=started_at or now(),
            **{"environment": self.environment, **fields},
        )


def now() -> str:
    """The time, ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
