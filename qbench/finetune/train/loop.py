"""The training loop: one for full tuning, LoRA and QLoRA.

What is random follows from the seed: the order of the examples from generators of its own
(`numpy.random.default_rng([seed, epoch])`), dropout from `torch.manual_seed(seed)` directly before
the first step. A step's loss is the summed loss of all its batches over the count of their scored
tokens: accumulating gradients changes nothing but rounding. Frozen weights stay as they were
loaded; the forward pass runs under autocast, the loss is taken in fp32.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.core.errors import NonFiniteError, OutOfMemoryError, is_out_of_memory
from qbench.core.number_types import BF16
from qbench.finetune.train.examples import NOT_SCORED, collate
from qbench.finetune.train.live_bytes import LivePeak
from qbench.finetune.train.memory_kinds import bytes_by_kind, held_tensors
from qbench.finetune.trainable import gpus_of, trained_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.train.checkpoint import Progress
    from qbench.finetune.train.examples import Encoded


@dataclass(frozen=True)
class Curriculum:
    """What a training sees, in which order."""

    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    steps: int
    batch: int
    """Sequences of one forward pass."""
    accumulate: int
    """Forward passes of one step."""
    seed: int
    pad_id: int
    length: int
    """Tokens that each sequence of the training is padded to."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Examples that were longer than a sequence may be, by split."""
    warnings: tuple[str, ...] = ()
    """On how the examples became token ids."""
    _orders: dict[int, list[int]] = field(default_factory=dict, repr=False, compare=False)

    def step_batches(self, step: int) -> list[list[Encoded]]:
        """The batches of a step, counted from 0: epoch after epoch, each in an order of its own."""
        first = step * self.batch * self.accumulate
        return [
            [self._at(first + at * self.batch + row) for row in range(self.batch)]
            for at in range(self.accumulate)
        ]

    def step_examples(self, step: int) -> int:
        """Examples of a step, each of a packed block counted."""
        return sum(row.examples for batch in self.step_batches(step) for row in batch)

    def _at(self, position: int) -> Encoded:
        import numpy as np

        epoch, place = divmod(position, len(self.train))
        if epoch not in self._orders:
            self._orders.clear()  # only one epoch is running, two at its end
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
            self._orders[epoch] = [int(index) for index in shuffled]
        return self.train[self._orders[epoch][place]]


def train(
    model: torch.nn.Module,
    curriculum: Curriculum,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    progress: Progress,
    options: TrainingOptions,
    *,
    after_step: Callable[[], None],
) -> None:
    """Takes the steps that are left, noting each in `progress`; `after_step` is called after each.

    Raises `NonFiniteError` for a loss or gradient that is not finite, before it reaches the
    weights, and `OutOfMemoryError`; both name the step.
    """
    import torch

    if not progress.validation:
        progress.validation[0] = _checked_validation(model, curriculum, options, step=0)
    first = progress.step
    if first == 0:
        torch.manual_seed(curriculum.seed)
    model.train()
    for step in range(first, curriculum.steps):
        # A process's first step makes buffers and picks kernels. In the second, all that a step
        # takes is there: it is the one whose memory is measured, which costs time too.
        last = step == curriculum.steps - 1
        measured = progress.memory is None and step > 0 and (step > first or last)
        if measured or step == first:
            progress.untimed.append(step)
        with _explained_memory(step, curriculum, options):
            _take_step(
                model, curriculum, optimizer, scheduler, progress, options, measured=measured
            )
        every = options.validate_every
        if last or (every is not None and (step + 1) % every == 0):
            loss = _checked_validation(model, curriculum, options, step=step + 1)
            progress.validation[step + 1] = loss
            model.train()
        after_step()


def validation_loss(
    model: torch.nn.Module, curriculum: Curriculum, options: TrainingOptions
) -> float:
    """Mean loss over the scored tokens of the validation split, in nat; leaves eval mode on."""
    import torch

    device = _device(model)
    length = max(len(encoded.ids) for encoded in curriculum.validation)
    total, scored = 0.0, 0
    model.eval()
    # Not inference mode: what a layer keeps from it could not be used in training afterwards.
    with torch.no_grad():
        for start in range(0, len(curriculum.validation), curriculum.batch):
            rows = list(curriculum.validation[start : start + curriculum.batch])
            batch = _on_device(collate(rows, pad_id=curriculum.pad_id, length=length), device)
            total += float(_summed_loss(model, batch, options, device))
            scored += sum(row.scored for row in rows)
    return total / scored


def _take_step(
    model: torch.nn.Module,
    curriculum: Curriculum,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    progress: Progress,
    options: TrainingOptions,
    *,
    measured: bool,
) -> None:
    import torch

    step, device = progress.step, _device(model)
    weights = list(trained_weights(model).values())
    rows = curriculum.step_batches(step)
    batches = [
        _on_device(collate(batch, pad_id=curriculum.pad_id, length=curriculum.length), device)
        for batch in rows
    ]
    scored = sum(row.scored for batch in rows for row in batch)
    times = _Times(gpus_of(model))
    losses = []
    peak = LivePeak(device, held_tensors(model, optimizer)) if measured else nullcontext()
    with peak:
        for batch in batches:
            with times("forward"):
                loss = _summed_loss(model, batch, options, device) / scored
            with times("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            del loss  # and with it what the backward pass kept
        kinds = asdict(bytes_by_kind(model, optimizer)) if measured else None
        total = sum(float(loss) for loss in losses)
        _check_finite(total, "loss", step, curriculum)
        with times("optimizer"):
            if options.clip is not None:
                norm = torch.nn.utils.clip_grad_norm_(weights, options.clip)
                _check_finite(float(norm), "gradient", step, curriculum)
            learning_rate = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
    if isinstance(peak, LivePeak) and kinds is not None:
        progress.memory = {**kinds, "peak": peak.peak_bytes}
        progress.memory_step = step
        progress.memory_by_device = peak.by_device if len(peak.by_device) > 1 else {}
    progress.losses.append(total)
    progress.learning_rates.append(float(learning_rate))
    progress.tokens.append(sum(len(row.ids) for batch in rows for row in batch))
    progress.forward_s.append(times.spent_s["forward"])
    progress.backward_s.append(times.spent_s["backward"])
    progress.optimizer_s.append(times.spent_s["optimizer"])


def _summed_loss(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    options: TrainingOptions,
    device: torch.device,
) -> torch.Tensor:
    """Summed negative log-likelihood of the scored tokens, in fp32."""
    import torch
    from torch.nn import functional

    seen = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.autocast(device.type, torch.bfloat16, enabled=options.compute == BF16):
        logits = model(**seen, use_cache=False).logits
    # Each position predicts the next token; the last predicts none. The labels are shifted, not the
    # logits, of which that would make another copy.
    targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=NOT_SCORED)
    return functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=NOT_SCORED, reduction="sum"
    )


def _on_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _checked_validation(
    model: torch.nn.Module, curriculum: Curriculum, options: TrainingOptions, *, step: int
) -> float:
    with _explained_memory(step, curriculum, options, what="the evaluation after"):
        loss = validation_loss(model, curriculum, options)
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the validation loss is {loss} after step {step} of {curriculum.steps};"
            + (" lower the learning rate" if step else " the model is broken before any training")
        )
    return loss


def _check_finite(value: float, what: str, step: int, curriculum: Curriculum) -> None:
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the {what} became {value} at step {step + 1} of {curriculum.steps}; lower the"
            " learning rate, lengthen the warm-up or clip the gradient"
        )


@contextmanager
def _explained_memory(
    step: int, curriculum: Curriculum, options: TrainingOptions, what: str = ""
) -> Iterator[None]:
    """Turns running out of memory into an error that names the step and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        place = f"{what} step {step}" if what else f"step {step + 1}"
        remedies = [
            *([f"batch (now {curriculum.batch}; accumulate more)"] if curriculum.batch > 1 else []),
            f"max_tokens (sequences are {curriculum.length} long)",
        ]
        more = [
            *([] if options.checkpointing else ["checkpointing: true"]),
            *([] if "8bit" in options.optimizer else ["optimizer: paged_adamw_8bit"]),
        ]
        raise OutOfMemoryError(
            f"no memory left in {place} of {curriculum.steps}: lower {' or '.join(remedies)}"
            + (f", or try {' and '.join(more)}" if more else "")
        ) from error


@dataclass
class _Times:
    """Adds up the time of each part of a step, the GPUs' work included."""

    gpus: tuple[str, ...]
    spent_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = self._now()
        yield
        self.spent_s[part] = self.spent_s.get(part, 0.0) + self._now() - started

    def _now(self) -> float:
        import torch

        for gpu in self.gpus:
            torch.cuda.synchronize(gpu)
        return time.perf_counter()
