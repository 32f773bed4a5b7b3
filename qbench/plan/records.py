"""The records of a plan's tasks: each file is read once, and again only when it was changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.store import DamagedRecordError, file_stamp, read_record

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.core.store import FileStamp
    from qbench.plan.job import Task


@dataclass(frozen=True)
class RecordsOnDisk:
    """What lies on disk at the moment of each question, whoever wrote it."""

    _read: dict[str, tuple[FileStamp, Record | DamagedRecordError]] = field(default_factory=dict)
    """By the file's path, what was read of it and which file that was."""

    def record(self, task: Task) -> Record | None:
        """The task's record; a damaged file counts as none. Raises `StoreError` for a newer one."""
        found = self._found(task)
        return None if isinstance(found, DamagedRecordError) else found

    def damage(self, task: Task) -> DamagedRecordError | None:
        """Why the task's file is no record; None where it is one, or there is none."""
        found = self._found(task)
        return found if isinstance(found, DamagedRecordError) else None

    def _found(self, task: Task) -> Record | DamagedRecordError | None:
        path = Path(task.path)
        # Before it is read: whatever is written meanwhile has another stamp, and is read next time.
        stamp = file_stamp(path)
        before, found = self._read.get(task.path, (None, None))
        if found is not None and stamp == before:
            return found
        try:
            found = read_record(path)
        except DamagedRecordError as error:
            found = error
        if found is not None and stamp is not None:
            self._read[task.path] = stamp, found
        return found
