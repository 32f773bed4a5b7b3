"""Locks that keep all runs on a machine, whoever's they are, from measuring on one device at once.

A GPU's lock goes by its id: its number depends on what `CUDA_VISIBLE_DEVICES` leaves. The files lie
in one folder for everybody, `/tmp/qbench-locks` (or `$QBENCH_LOCKS`, for containers that share a
GPU): open to all and sticky, as `/tmp` itself. They are locked, never written and never deleted,
and no link is followed, so that nothing in that folder can lead a run elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qbench.core.errors import StoreError
from qbench.core.nvml import visible_gpus
from qbench.core.spec import slugify
from qbench.running.executors.executor import RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qbench.core.spec import ModelRef

_POLL_S = 1.0
_FOLDER_MODE = 0o1777
_FILE_MODE = 0o666


def lock_names(device: str, *, every_gpu: bool = False) -> tuple[str, ...]:
    """What a job on this device locks, in the order in which everybody takes locks.

    `every_gpu` is for a model that is laid over all visible GPUs.
    """
    if not device.startswith("cuda"):
        return ("cpu",)
    gpus = visible_gpus()
    index = int(device.partition(":")[2] or 0)
    chosen = gpus if every_gpu else gpus[index : index + 1]
    return tuple(sorted(slugify(gpu.uuid) for gpu in chosen)) or (slugify(device),)


def lock_folder() -> Path:
    """`$QBENCH_LOCKS`, else one folder for all runs of the machine; it need not exist yet."""
    chosen = os.environ.get("QBENCH_LOCKS")
    if chosen:
        return Path(chosen).absolute()
    # Not $TMPDIR, which is often one of a user or a job alone.
    common = Path("/tmp")  # noqa: S108 - guarded against what others put there
    return (common if common.is_dir() else Path(tempfile.gettempdir())) / "qbench-locks"


@contextmanager
def devices_held(
    device: str, model: ModelRef, stopped: Callable[[], bool], on_wait: Callable[[], None]
) -> Iterator[None]:
    """Waits until no other run uses the devices of a model's job, and keeps them for the block.

    `on_wait` is called once, where another one has them. Raises `RunStoppedError` when `stopped`
    says so meanwhile.
    """
    with DeviceLocks(lock_names(device, every_gpu=model.device_map is not None)) as locks:
        if not locks.acquired():
            on_wait()
            while not locks.acquired():
                if stopped():
                    raise RunStoppedError
                time.sleep(_POLL_S)
        yield


class DeviceLocks:
    """Locks that are taken one after the other, and given back together.

    Beside each lies another that says whose turn is next: it is held while the first is waited for
    and let go when that is taken. So a run that waits gets the device after the running job, not
    after all jobs of the run that has it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are taken in this order. Raises `StoreError` without a folder for them."""
        self._left = [_made(lock_folder()) / f"{name}.lock" for name in names]
        self._held = ExitStack()
        self._turn: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives all back."""
        self._end_turn()
        self._held.close()

    def acquired(self) -> bool:
        """Takes what is free of those that are left; whether all are held now.

        Raises `StoreError` for a lock that cannot be opened.
        """
        while self._left:
            if self._turn is None:
                self._turn = _lock(self._left[0].with_suffix(".next.lock"))
            descriptor = None if self._turn is None else _lock(self._left[0])
            if descriptor is None:
                return False
            self._end_turn()
            self._held.callback(os.close, descriptor)
            del self._left[0]
        return True

    def _end_turn(self) -> None:
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None


def _made(folder: Path) -> Path:
    """The folder, made if it is not there; others find it open to them."""
    try:
        folder.mkdir(parents=True)
        folder.chmod(_FOLDER_MODE)  # mkdir's mode is cut by the umask
    except FileExistsError:
        pass
    except OSError as error:
        raise _error(folder, error.strerror) from error
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise _error(folder, "it is no folder")
    return folder


def _lock(path: Path) -> int | None:
    """The descriptor of a file that is locked now; None while another process holds it."""
    while True:
        try:
            descriptor = _open(path)
            found = os.fstat(descriptor)
        except OSError as error:
            raise _error(path, error.strerror) from error
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise _error(path, "it is no file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise _error(path, error.strerror) from error
        # Whoever cleans the folder of old files may have removed this one before it was locked.
        with suppress(OSError):
            if path.lstat().st_ino == found.st_ino:
                return descriptor
        os.close(descriptor)


def _open(path: Path) -> int:
    """Opens a lock's file, whoever made it; a file that is made is for everybody."""
    # Reading is enough for a lock. In a sticky folder Linux lets nobody open another's file to
    # make it, so that is tried apart.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    except FileExistsError:  # another run was faster
        return os.open(path, flags)
    os.fchmod(descriptor, _FILE_MODE)
    return descriptor


def _error(place: Path, found: str | None) -> StoreError:
    return StoreError(
        f"{place}: cannot be locked ({found}); it keeps two runs from measuring on one device at"
        " once. Ask its owner to fix it, or name another folder with the environment"
        " variable QBENCH_LOCKS"
    )
