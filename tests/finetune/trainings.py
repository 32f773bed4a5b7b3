"""Trainings of a few steps on a tiny model and a few made-up functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.finetune import methods
from qbench.finetune.train.checkpoint import CheckpointRule
from qbench.finetune.train.make import Training, make_artifact, prepare_curriculum
from qbench.finetune.trainable import trained_weights
from qbench.sources.data.splits import Example, Splits
from tests.precisions.tiny_cells import load_fresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from qbench.core.spec import PrecisionRef
    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.train.checkpoint import Progress
    from qbench.finetune.train.loop import Curriculum
    from qbench.measures.loaded import LoadedModel

KEY = "0123456789abcdef"
CONTEXT = 128
"""Tokens of the tiny model's context."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "lora": {"learning_rate": 1e-2, "rank": 4},
    "full": {"learning_rate": 1e-3},
    "qat": {"learning_rate": 1e-3},
}


class StoppedHereError(Exception):
    """Stands for a kill: nothing below the test catches it."""


@dataclass(frozen=True)
class Done:
    """A training with the model that came out of it."""

    training: Training
    loaded: LoadedModel

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that were trained."""
        return {name: w.detach() for name, w in trained_weights(self.loaded.model).items()}


def make_examples(name: str, count: int) -> list[Example]:
    return [
        Example(f"{name}-{at}", f"def {name}_{at}(x):\n", f"    return x + {at}\n")
        for at in range(count)
    ]


def make_splits(train: int = 10, validation: int = 3) -> Splits:
    return Splits(
        train=make_examples("add", train),
        validation=make_examples("sum", validation),
        test=make_examples("plus", 2),
        rows=train + validation + 2,
        empty=0,
        duplicates=0,
    )


def make_options(method: str, **changes: Any) -> TrainingOptions:
    return methods()[method].options(
        **{"batch": 4, "steps": 6, "schedule": "linear", **DEFAULTS[method], **changes}
    )


def make_course(
    loaded: LoadedModel, options: TrainingOptions, *, seed: int = 0, splits: Splits | None = None
) -> Curriculum:
    return prepare_curriculum(
        splits or make_splits(),
        loaded.tokenizer,
        options,
        seed=seed,
        context_tokens=CONTEXT,
        vocabulary=loaded.model.get_input_embeddings().weight.shape[0],
    )


def train(
    folder: Path,
    method: str = "lora",
    precision: str = "fp32",
    *,
    seed: int = 0,
    key: str = KEY,
    splits: Splits | None = None,
    every_steps: int | None = None,
    stop_after: int | None = None,
    before: Callable[[LoadedModel], None] | None = None,
    trained_for: PrecisionRef | None = None,
    **options: Any,
) -> Done:
    """Trains a freshly loaded model; `stop_after` so many steps it raises `StoppedHereError`.

    `precision` is what it is loaded in, `trained_for` what QAT trains for.
    """
    loaded = load_fresh(folder, precision)
    if before is not None:
        before(loaded)
    chosen = make_options(method, **options)

    def after_step(progress: Progress) -> None:
        if progress.step == stop_after:
            raise StoppedHereError

    training = make_artifact(
        loaded.model,
        methods()[method],
        chosen,
        make_course(loaded, chosen, seed=seed, splits=splits),
        key=key,
        precision=trained_for or loaded.cell.precision,
        base_fingerprint=loaded.resolved.fingerprint,
        folder=folder,
        rule=CheckpointRule(every_steps=every_steps),
        after_step=after_step,
    )
    return Done(training, loaded)
