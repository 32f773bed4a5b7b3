"""Tuned models in the cache: made once, shared by every cell that needs them, safe to delete.

Each has a folder, `<cache>/tuned/<key of the training's record>/`:

    adapter_config.json, adapter_model.safetensors    LoRA, as PEFT saves it
    config.json, model.safetensors, …                 full tuning and QAT, by transformers,
                                                      with the base's tokenizer
    artifact.json                                     what it is
    seal.json                                         written last: the artifact is whole
    checkpoint/                                       of a training that is not done yet

and beside it `<key>.lock`, held by whoever makes the artifact.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.core.cache import cache_folder
from qbench.core.errors import MeasurementError
from qbench.core.files import waiting_folder, write_atomically
from qbench.core.spec import Frozen
from qbench.sources.models.tokenizer_files import tokenizer_files
from qbench.sources.sealed import SEAL, broken_seal, cache_write_errors, maker_lock, seal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

_FILE = "artifact.json"


class ArtifactInfo(Frozen):
    """What is known of a tuned model without loading it."""

    key: str
    """Of the record of its training."""
    method: str
    """Name in the table of methods."""
    precision: str
    """Label of the precision that it was trained in."""
    base_fingerprint: str
    """Fingerprint of the model that was tuned."""
    seed: int
    steps: int
    """Optimizer steps that it was trained for."""


def artifact_folder(key: str) -> Path:
    """Where the artifact of that key lies, or would lie."""
    return cache_folder() / "tuned" / key


def has_artifact(key: str) -> bool:
    """Whether the artifact is there, and is what its training left."""
    return broken_seal(artifact_folder(key), key) is None


def damage_of_artifact(key: str) -> str | None:
    """Why what lies in the artifact's place is not believed; None if it is, or nothing is there."""
    folder = artifact_folder(key)
    return broken_seal(folder, key) if (folder / _FILE).exists() else None


def read_artifact(key: str, *, base_fingerprint: str | None = None) -> ArtifactInfo:
    """What the artifact is; its files are compared with what was written.

    Raises `MeasurementError` when it is missing, is not what its training left, or (where
    `base_fingerprint` is given) was made from another base.
    """
    path = artifact_folder(key) / _FILE
    try:
        info = ArtifactInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise MeasurementError(
            f"the tuned model {key} is not in the cache ({path.parent}): its training failed or was"
            " stopped (its own record says why), or the cache was emptied; run the suite again,"
            " with --retry if the training's record is there"
        ) from error
    except (OSError, ValidationError) as error:
        raise MeasurementError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); delete the folder and run the"
            " training again"
        ) from error
    damage = broken_seal(path.parent, key)
    if damage is not None:
        raise MeasurementError(
            f"{path.parent}: not the tuned model that its training left there: {damage}; run the"
            " suite again, which trains it again"
        )
    if base_fingerprint is not None and info.base_fingerprint != base_fingerprint:
        raise MeasurementError(
            f"the tuned model {key} was made from another base: found the fingerprint"
            f" {info.base_fingerprint[:16]}, expected {base_fingerprint[:16]}; train it on this"
            " base, or give the base that it was trained on"
        )
    return info


@contextmanager
def replacing_artifact(info: ArtifactInfo) -> Iterator[Path]:
    """Gives an empty folder; what lies in it when the block ends is the artifact from then on.

    What was there before, and the checkpoints, are deleted. A block that fails changes nothing.
    Raises `NotKeptError` when the artifact cannot be written.
    """
    folder = artifact_folder(info.key)
    with cache_write_errors(folder), waiting_folder(folder / "new") as fresh:
        yield fresh
        write_atomically(fresh / _FILE, info.model_dump_json(indent=2) + "\n")
        seal(fresh, info.key)
        (folder / SEAL).unlink(missing_ok=True)
        for old in folder.iterdir():
            if old not in {fresh, checkpoint_folder(info.key)}:
                _remove(old)
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == SEAL):
            path.rename(folder / path.name)
    shutil.rmtree(checkpoint_folder(info.key), ignore_errors=True)


def checkpoint_folder(key: str) -> Path:
    """Where a training that is not done keeps what it needs to continue."""
    return artifact_folder(key) / "checkpoint"


def copy_tokenizer(base: Path, target: Path) -> None:
    """Puts the base's tokenizer beside tuned weights: to quantize them by calibration needs it."""
    for name in tokenizer_files(base):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(base / name, target / name)


def lock_artifact(key: str) -> AbstractContextManager[None]:
    """Waits until no one else makes this artifact; the lock of a killed process is free."""
    return maker_lock(artifact_folder(key))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
