"""What one job makes for others, on its way between caches that lie on different disks.

Tuned models, the reference's states and tables of sensitivities are sealed folders of the cache,
each under the key of the record whose measurement made it. They travel in pieces, file by file, the
seal last; where they arrive they are believed only if they are what was sealed.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

from qbench.core.files import waiting_folder
from qbench.finetune.artifact import artifact_folder
from qbench.measures.quality.reference_states import states_path
from qbench.precisions.mixed.sensitivities import sensitivities_folder
from qbench.sources.sealed import SEAL, broken_seal, cache_write_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qbench.plan.job import Job

PIECE_BYTES = 8 * 2**20
"""The largest piece that is sent at once."""


class Made(NamedTuple):
    """A sealed folder of the cache."""

    what: str
    """`tuned`, `states` or `sensitivities`."""
    key: str
    """Of the record whose measurement made it."""

    @property
    def folder(self) -> Path:
        """Where it lies in this machine's cache, or would lie."""
        return _FOLDERS[self.what](self.key)

    @property
    def is_here(self) -> bool:
        """Whether it lies in this machine's cache, whole."""
        return broken_seal(self.folder, self.key) is None


class Piece(NamedTuple):
    """The next bytes of a file of a sealed folder."""

    file: str
    data: bytes


_FOLDERS: dict[str, Callable[[str], Path]] = {
    "tuned": artifact_folder,
    "states": lambda key: states_path(key).parent,
    "sensitivities": sensitivities_folder,
}


def made_under(key: str) -> list[Made]:
    """What the measurement of that record left for others in this machine's cache."""
    return [made for what in _FOLDERS if (made := Made(what, key)).is_here]


def needed_by(job: Job) -> list[Made]:
    """What a job reads that others made."""
    states = {
        task.item.states_key
        for task in job.tasks
        if task.item.states_key is not None and not task.item.makes_states
    }
    needed = [Made("states", key) for key in sorted(states)]
    if job.artifact_key is not None and job.cell.deploy is not None:
        needed.append(Made("tuned", job.artifact_key))
    if job.sensitivities_key is not None:
        needed.append(Made("sensitivities", job.sensitivities_key))
    return needed


def pieces_of(made: Made) -> Iterator[Piece]:
    """The files of a folder that is here; raises `OSError` where they vanish meanwhile."""
    names = json.loads((made.folder / SEAL).read_bytes())["files"]
    for name in (*names, SEAL):
        with (made.folder / name).open("rb") as file:
            data = file.read(PIECE_BYTES)
            while True:
                yield Piece(name, data)
                data = file.read(PIECE_BYTES)
                if not data:
                    break


class Arrival:
    """Puts a folder together from its pieces; a context manager that leaves nothing unfinished."""

    def __init__(self, made: Made) -> None:
        """Raises `NotKeptError`, here and later, where the cache cannot be written."""
        self._made = made
        self._stack = ExitStack()
        with cache_write_errors(made.folder):
            self._waiting = self._stack.enter_context(waiting_folder(made.folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What is not finished is removed."""
        self._stack.close()

    def add(self, piece: Piece) -> None:
        """Appends to a file."""
        path = self._waiting / piece.file
        with cache_write_errors(self._made.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(piece.data)

    def finish(self) -> str | None:
        """Moves the folder to its place; or says why it is not what was sealed."""
        damage = broken_seal(self._waiting, self._made.key)
        if damage is None and not self._made.is_here:
            with cache_write_errors(self._made.folder):
                shutil.rmtree(self._made.folder, ignore_errors=True)
                self._waiting.replace(self._made.folder)
        self._stack.close()
        return damage
