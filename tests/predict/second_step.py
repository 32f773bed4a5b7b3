"""A training of two steps, and what it holds in the second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import ConstantLR

from qbench.finetune import methods
from qbench.finetune.optimizers import make_optimizer
from qbench.finetune.train.checkpoint import Progress
from qbench.finetune.train.examples import NOT_SCORED, Encoded
from qbench.finetune.train.loop import Curriculum, train
from qbench.finetune.train.make import _enable_checkpointing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.core.spec import PrecisionRef
    from qbench.finetune.options import TrainingOptions


def measure_second_step(
    model: Any,
    folder: Path,
    method: str,
    precision: PrecisionRef,
    options: TrainingOptions,
    rows: Sequence[list[int]],
    *,
    length: int,
) -> dict[str, int]:
    """Bytes by kind, from the tensors that the training loop holds in its second step.

    `model` is the one in `folder`, loaded. Every token of `rows` but the first is learned, each
    padded to `length`.
    """
    trained = (
        methods()[method].prepare(model, options, precision=precision, seed=0, folder=folder).model
    )
    if options.checkpointing:
        _enable_checkpointing(model)
    curriculum = Curriculum(
        train=[Encoded(row, [NOT_SCORED, *row[1:]]) for row in rows],
        validation=[Encoded(rows[0], rows[0])],
        steps=2,
        batch=options.batch,
        accumulate=options.accumulate,
        seed=0,
        pad_id=0,
        length=length,
    )
    optimizer = make_optimizer(options, trained.parameters())
    progress = Progress()
    train(
        trained,
        curriculum,
        optimizer,
        ConstantLR(optimizer, factor=1.0),
        progress,
        options,
        after_step=lambda: None,
    )
    assert progress.memory is not None
    return dict(progress.memory)
