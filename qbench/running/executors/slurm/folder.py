"""The folder that the driver of a run and its Slurm jobs share, in the cache: one entry a job.

    slurm/<suite>-<hash of the results folder>/
        driver.lock             held by the run that uses the folder
        submitit/               what submitit keeps: scripts, pickles, the jobs' own output
        <entry>/told.json       what the job is to do, written by the driver
                waiting         there until the job takes it up or the driver takes it back
                begun           its name from then on, if the job took it up
                submitted.json  the ids of the job, from whichever side knows them first
                look            there where it is a look at a node, which takes no record
                events          what the job tells: a line of JSON each, appended
                asked           what the driver asks a look, with the number of its bytes before it

A name is changed by one side alone, also on a network's disk: so a job that the driver took back
never begins, however late Slurm starts it. The files that one side waits for are there from the
beginning, as such a disk remembers for a minute that there was none.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.core.cache import cache_folder
from qbench.core.errors import StoreError, UsageError
from qbench.core.files import write_atomically
from qbench.core.record import content_key
from qbench.core.spec import slugify
from qbench.core.store import DamagedRecordError, parse_record, read_record, write_record_text
from qbench.plan.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.plan.suite.suite import Suite

Event = dict[str, Any]
_SIZE_BYTES = 8


class Submitted(NamedTuple):
    """How a job is found again, by whichever driver."""

    id: str
    """Slurm's, such as `1234_5`; of a job on this machine, its process's."""
    started: float | None
    """When that process was started, in seconds since 1970; None with Slurm."""
    output: str
    """The file with what the job itself printed, beside what submitit keeps of it."""


class ToldTask(NamedTuple):
    """A task of a job, as far as its record goes."""

    key: str
    path: str


@dataclass(frozen=True)
class Entry:
    """What was submitted of one job."""

    folder: Path

    @property
    def job(self) -> Job:
        """The job as it was told."""
        return Job.model_validate(self.told()["job"])

    @property
    def tasks(self) -> list[ToldTask]:
        """The tasks of the job, which another version of qbench may have told."""
        return [ToldTask(one["key"], one["path"]) for one in self.told()["job"]["tasks"]]

    def told(self) -> dict[str, Any]:
        """What the driver told."""
        told: dict[str, Any] = json.loads((self.folder / "told.json").read_bytes())
        return told

    @property
    def is_whole(self) -> bool:
        """Whether what the driver told can be read: else nobody can say what it is an entry of."""
        try:
            self.told()
        except (OSError, ValueError):
            return False
        return True

    def take_up(self) -> bool:
        """Whether the job may begin, or go on after Slurm has started it again."""
        with suppress(FileNotFoundError):
            (self.folder / "waiting").rename(self.folder / "begun")
        return (self.folder / "begun").exists()

    def take_back(self) -> bool:
        """Whether the job, which has not begun, never will."""
        try:
            (self.folder / "waiting").rename(self.folder / "taken-back")
        except FileNotFoundError:
            return (self.folder / "taken-back").exists()
        return True

    def submitted(self) -> Submitted | None:
        """How it is found; None where the driver ended before it knew."""
        try:
            return Submitted(*json.loads((self.folder / "submitted.json").read_bytes()))
        except (OSError, ValueError):
            return None

    def keep_submitted(self, how: Submitted) -> None:
        """Keeps how it is found."""
        write_atomically(self.folder / "submitted.json", json.dumps(how))

    def tell(self, event: Event) -> None:
        """Appends an event, on the disk when this returns."""
        # Opened and closed for each: a network's disk shows others what was written then.
        handle = os.open(self.folder / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            line = json.dumps(event).encode() + b"\n"
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def end_torn_line(self) -> None:
        """Ends the line that a killed job left unfinished, before another tells more."""
        with suppress(FileNotFoundError), (self.folder / "events").open("r+b") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")

    def events(self, start: int = 0) -> Iterator[tuple[Event, int]]:
        """The whole events from a place in the file on, each with the place where it ends."""
        try:
            with (self.folder / "events").open("rb") as file:
                file.seek(start)
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                return  # more of it is to come
            start += len(line)
            with suppress(ValueError):  # a killed job left it unfinished
                yield json.loads(line), start

    @property
    def is_look(self) -> bool:
        """Whether it is a look at a node, which takes no record."""
        return (self.folder / "look").exists()

    @property
    def has_ended(self) -> bool:
        """Whether its job has told its end."""
        return self.has_told("ended")

    def has_told(self, what: str) -> bool:
        """Whether its job has told such an event."""
        return any(event["event"] == what for event, _ in self.events())

    def ask(self, value: object) -> None:
        """Asks the job something, which `asked` reads there."""
        data = pickle.dumps(value)
        with (self.folder / "asked").open("r+b") as file:
            file.write(len(data).to_bytes(_SIZE_BYTES) + data)
            file.flush()
            os.fsync(file.fileno())

    def asked(self) -> tuple[Any] | None:
        """What the driver asked; None as long as it has not, or not wholly."""
        data = (self.folder / "asked").read_bytes()
        if len(data) < _SIZE_BYTES or len(data) - _SIZE_BYTES < int.from_bytes(data[:_SIZE_BYTES]):
            return None
        return (pickle.loads(data[_SIZE_BYTES:]),)  # noqa: S301 - written by qbench's own driver

    def recorded(self) -> dict[int, str]:
        """The records that it told, by the place of their task."""
        return {
            event["index"]: event["text"]
            for event, _ in self.events()
            if event["event"] == "record"
        }

    def remove(self) -> None:
        """Removes it; what is left of one where this was cut short counts as no entry."""
        (self.folder / "told.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class SlurmFolder:
    """All entries of a suite's runs into one folder of results."""

    def __init__(self, suite: Suite, results: Path) -> None:
        """Makes the folder. Raises `StoreError` where the cache cannot be written."""
        name = f"{slugify(suite.name)}-{content_key({'results': str(results.absolute())})[:12]}"
        self.path = cache_folder().absolute() / "slurm" / name
        self.submitit = self.path / "submitit"
        try:
            self.submitit.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be made ({error.strerror}); free space, or name another"
                " folder for the cache with the environment variable QBENCH_CACHE"
            ) from error

    def held(self) -> int:
        """Keeps other runs out until the descriptor is closed; `UsageError` where one is there."""
        handle = os.open(self.path / "driver.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UsageError(
                "--on slurm: another run has jobs of this suite in Slurm, for the same folder of"
                " results; wait for it or end it, or give this one other --results"
            ) from error
        except OSError:  # a disk without locks
            pass
        return handle

    def add(self, told: dict[str, Any]) -> Entry:
        """A new entry, whose job may begin."""
        entry = Entry(self.path / f"job-{secrets.token_hex(6)}")
        entry.folder.mkdir()
        write_atomically(entry.folder / "told.json", json.dumps(told))
        for name in ("events", "asked", "waiting"):
            (entry.folder / name).touch()
        return entry

    def add_look(self) -> Entry:
        """A new entry of a look at a node."""
        entry = self.add({})
        (entry.folder / "look").touch()
        return entry

    def entries(self) -> list[Entry]:
        """Those of runs that ended before their jobs."""
        found = [Entry(one) for one in sorted(self.path.glob("job-*"))]
        whole = [one for one in found if one.is_whole]
        for one in found:
            if one not in whole:
                one.remove()
        return whole


def gather(entry: Entry) -> int:
    """Writes the records that an entry told to their places, and returns where it read up to.

    A record on disk that was begun later stays. Raises `StoreError` where one cannot be written.
    """
    tasks, read = entry.tasks, 0
    for event, end in entry.events():
        read = end
        if event["event"] != "record":
            continue
        path = Path(tasks[event["index"]].path)
        try:
            told = parse_record(event["text"].encode(), path)
        except DamagedRecordError:
            continue
        with suppress(DamagedRecordError):
            there = read_record(path)
            if there is not None and there.started_at >= told.started_at:
                continue
        write_record_text(path, event["text"])
    return read
