"""A model's files on this machine, with how they are to be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import ModelRef


@dataclass(frozen=True)
class Checkpoint:
    """What is loaded, onto what, and whether its own code may run."""

    folder: Path
    """Where its files lie: configuration, weights, tokenizer."""
    device: str
    """One that torch knows, such as `cpu` or `cuda:0`; or `auto` for all GPUs."""
    trust_remote_code: bool = False


def checkpoint_of(model: ModelRef, folder: Path, device: str) -> Checkpoint:
    """A model's files for a job on that device, spread over all GPUs if the suite says so."""
    return Checkpoint(folder, model.device_map or device, model.trust_remote_code)
