"""Tuned models in the cache: made once, shared by every cell that needs them, safe to delete.

Each has a folder, `<cache>/tuned/<key of the training's record>/`:

    adapter_config.json, adapter_model.safetensors    LoRA, as PEFT saves it
    config.json, model.safetensors, …                 full tuning and QAT, by transformers,
                                                      with the base's tokenizer
    artifact.json                                     written last: the artifact is whole
    checkpoint/                                       of a training that is not done yet

and beside it `<key>.lock`, held by whoever makes the artifact.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock
from pydantic import ValidationError

from qbench.atomic import write_atomically
from qbench.errors import MeasurementError
from qbench.sources.cache import cache_folder
from qbench.sources.tokenizer_files import tokenizer_files
from qbench.spec import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    """Whether the artifact is there and whole."""
    return (artifact_folder(key) / _FILE).is_file()


def read_artifact(key: str, *, base_fingerprint: str | None = None) -> ArtifactInfo:
    """What the artifact is.

    Raises `MeasurementError` when it is missing, cannot be read, or (where `base_fingerprint` is
    given) was made from another base.
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
    if base_fingerprint is not None and info.base_fingerprint != base_fingerprint:
        raise MeasurementError(
            f"the tuned model {key} was made from another base: found the fingerprint"
            f" {info.base_fingerprint[:16]}, expected {base_fingerprint[:16]}; train it on this"
            " base, or give the base that it was trained on"
        )
    return info


def write_artifact(info: ArtifactInfo) -> None:
    """Declares the artifact whole: to be called when all its other files are in place."""
    write_atomically(artifact_folder(info.key) / _FILE, info.model_dump_json(indent=2) + "\n")


@contextmanager
def replacing_artifact(info: ArtifactInfo) -> Iterator[Path]:
    """Gives an empty folder; what lies in it when the block ends is the artifact from then on.

    What was there before, and the checkpoints, are deleted. A block that fails changes nothing.
    """
    folder = artifact_folder(info.key)
    fresh = folder / "new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        (folder / _FILE).unlink(missing_ok=True)
        for old in folder.iterdir():
            if old not in {fresh, checkpoint_folder(info.key)}:
                _remove(old)
        for path in fresh.iterdir():
            path.rename(folder / path.name)
        write_artifact(info)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(checkpoint_folder(info.key), ignore_errors=True)


def checkpoint_folder(key: str) -> Path:
    """Where a training that is not done keeps what it needs to go on."""
    return artifact_folder(key) / "checkpoint"


def copy_tokenizer(base: Path, target: Path) -> None:
    """Puts the base's tokenizer beside tuned weights: to quantize them by calibration needs it."""
    for name in tokenizer_files(base):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(base / name, target / name)


@contextmanager
def lock_artifact(key: str) -> Iterator[None]:
    """Waits until no one else makes this artifact; the lock of a killed process is free."""
    path = artifact_folder(key).with_name(f"{key}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
