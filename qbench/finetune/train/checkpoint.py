"""What a training needs to continue after a stop, as if there had been none.

    checkpoint/step-00000120/
        weights.safetensors    the weights that are trained
        state.pt               optimizer, schedule and random generators
        progress.json          losses, times and evaluations so far
        seal.json              whose they are, and their hashes

Each is written under another name and renamed when it is whole; the one before it is deleted then.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.finetune.optimizers import restore_optimizer
from qbench.finetune.trainable import gpus_of, trained_weights
from qbench.sources.sealed import broken_seal, sealed_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

INTERVAL_VARIABLE = "QBENCH_CHECKPOINT_SECONDS"
DEFAULT_INTERVAL_S = 30.0
_UNREADABLE = (
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
LARGEST_SHARE = 0.05
"""Of the time since the last checkpoint that may go into writing the next one."""


@dataclass
class Progress:
    """What a training has behind it: a row of each list a step."""

    losses: list[float] = field(default_factory=list)
    """Mean over the step's scored tokens, in nat."""
    learning_rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Tokens of the step that are no padding."""
    forward_s: list[float] = field(default_factory=list)
    backward_s: list[float] = field(default_factory=list)
    optimizer_s: list[float] = field(default_factory=list)
    untimed: list[int] = field(default_factory=list)
    """Steps, from 0, whose times say nothing: the first of a process, the one that is measured."""
    resumed_at: list[int] = field(default_factory=list)
    """Steps that lay behind it each time it went on from a checkpoint."""
    validation: dict[int, float] = field(default_factory=dict)
    """Loss on the validation split, nat a token, by the steps before it."""
    memory: dict[str, int] | None = None
    """Bytes by kind, and at the peak, of the one step that they were measured in."""
    memory_step: int | None = None
    """That step, from 0."""
    memory_by_device: dict[str, int] = field(default_factory=dict)
    """Its peak on each of several GPUs; empty else."""

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.losses)


@dataclass
class CheckpointRule:
    """When to write a checkpoint: not more often than is useful."""

    interval_s: float = DEFAULT_INTERVAL_S
    every_steps: int | None = None
    """After each so many steps instead."""
    _last: float = field(default_factory=time.perf_counter)
    _cost_s: float = 0.0
    _stopped: bool = False

    @classmethod
    def from_environment(cls) -> CheckpointRule:
        """The interval that `$QBENCH_CHECKPOINT_SECONDS` gives, else half a minute."""
        try:
            return cls(float(os.environ[INTERVAL_VARIABLE]))
        except (KeyError, ValueError):
            return cls()

    def due(self, step: int) -> bool:
        """Whether one is due after so many steps."""
        if self._stopped:
            return False
        if self.every_steps is not None:
            return step % self.every_steps == 0
        waited_s = time.perf_counter() - self._last
        return waited_s >= max(self.interval_s, self._cost_s / LARGEST_SHARE)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Takes the time of writing one: the next is due when that has paid."""
        started = time.perf_counter()
        yield
        self._last = time.perf_counter()
        self._cost_s = self._last - started

    def stop(self) -> None:
        """No checkpoint is due any more."""
        self._stopped = True


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    progress: Progress,
) -> None:
    """Writes a whole checkpoint and deletes older ones; raises `NotKeptError` when that cannot be.

    `folder` lies in that of the artifact, whose name says whose checkpoint it is.
    """
    import torch
    from safetensors.torch import save_file

    target = folder / f"step-{progress.step:08d}"
    weights = {name: weight.detach() for name, weight in trained_weights(model).items()}
    with sealed_folder(target, folder.parent.name) as waiting:
        save_file(
            {name: weight.contiguous() for name, weight in weights.items()},
            waiting / "weights.safetensors",
        )
        torch.save(
            {
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "random": _random_state(gpus_of(model)),
            },
            waiting / "state.pt",
        )
        (waiting / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
) -> Progress | None:
    """Puts everything back as it was at the last checkpoint; None where there is none to be used.

    One that is not what was written, or that fits another training, is deleted, and nothing is
    changed.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in sorted(folder.glob("step-*"), reverse=True):
        if broken_seal(path, folder.parent.name) is not None:
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            weights = load_file(path / "weights.safetensors")
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            progress = _read_progress(path / "progress.json")
            schedule, random = state["scheduler"], state["random"]
            _check_fits(weights, model)
            restore_optimizer(optimizer, state["optimizer"])
            scheduler.load_state_dict(schedule)
        # A file that is cut short or foreign makes its reader raise many kinds of errors.
        except (*_UNREADABLE, SafetensorError):
            shutil.rmtree(path, ignore_errors=True)
            continue
        with torch.no_grad():
            for name, weight in trained_weights(model).items():
                weight.copy_(weights[name])
        _set_random_state(random)
        return progress
    return None


def _read_progress(path: Path) -> Progress:
    entries = json.loads(path.read_text(encoding="utf-8"))
    # JSON has texts alone for keys.
    entries["validation"] = {int(step): loss for step, loss in entries["validation"].items()}
    return Progress(**entries)


def _check_fits(weights: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    found = {name: (weight.shape, weight.dtype) for name, weight in weights.items()}
    own = trained_weights(model).items()
    if found != {name: (weight.shape, weight.dtype) for name, weight in own}:
        raise ValueError("the checkpoint is of another training")


def _random_state(gpus: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Of the CPU, and of each GPU that draws: a model may lie on several."""
    import torch

    return {
        "cpu": torch.get_rng_state(),
        **{gpu: torch.cuda.get_rng_state(gpu) for gpu in gpus},
    }


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    import torch

    for device, drawn in state.items():
        if device == "cpu":
            torch.set_rng_state(drawn)
        else:
            torch.cuda.set_rng_state(drawn, device)
