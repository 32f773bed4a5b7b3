"""Bytes that a training step takes above its weights and states, predicted from shapes alone.

The step is listed operation by operation on a `Tape` of `qbench.predict.tape`, as the
blocks of `qbench.predict.decoder` describe it, and the highest moment is kept. In a training
that is one of: the loss (all activations and, in fp32, the logits, their log-softmax and a gradient
or two of either), the backward pass of a block (what is computed again under checkpointing, and
the gradients that there are by then), its end (all gradients), or the optimizer's step. Of a deep
model a few layers are listed, see `qbench.predict.layers`.

No constant is fitted, and nothing is measured. What the device's kernels take for themselves is not
in it, but for the flash attention's sums on CUDA: cuBLAS' workspace (8 to 32 MiB) and the rounding
of each allocation to 512 bytes are not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.predict.decoder import Decoder
from qbench.predict.layers import highest_moment
from qbench.predict.tape import (
    BATCH,
    CHECKPOINT_INPUTS,
    GRADIENTS,
    LAYERS,
    LOGITS_AND_LOSS,
    TRANSIENT,
    WEIGHT_CASTS,
    Ledger,
    Storage,
    Tape,
)

if TYPE_CHECKING:
    from qbench.predict.layers import Moment
    from qbench.predict.shapes import DecoderShape, TrainingSetup


@dataclass(frozen=True)
class ActivationBytes:
    """What a step takes at its highest moment beside weights, states and gradients, by part."""

    batch: int
    """Token ids, masks and labels, and the rotary tables."""
    layers: int
    """What the blocks keep for the backward pass; under checkpointing, what one recomputes."""
    checkpoint_inputs: int
    """The inputs of checkpointed blocks."""
    weight_casts: int
    """16-bit copies that autocast makes of weights."""
    logits_and_loss: int
    """The last norm, the logits, and what the loss keeps."""
    transient: int
    """Gradients of activations, and what a step back or the optimizer takes for itself."""
    gradients_to_come: int
    """Bytes of weights' gradients, negative: those that are not there yet at the moment.

    Beside the peak stand all gradients, so this makes the sum come out.
    """
    per_layer: int
    """What a block keeps for the backward pass where nothing is checkpointed; not in the total."""

    @property
    def total(self) -> int:
        """The peak less weights, quantization state, adapters, gradients and optimizer state."""
        return (
            self.batch
            + self.layers
            + self.checkpoint_inputs
            + self.weight_casts
            + self.logits_and_loss
            + self.transient
            + self.gradients_to_come
        )


def predict_activations(shape: DecoderShape, setup: TrainingSetup) -> ActivationBytes:
    """The bytes above weights, states and gradients at the peak of a step after the first."""
    highest, gradients = _highest(shape, setup)
    peak = defaultdict(int, highest.parts)
    return ActivationBytes(
        batch=peak[BATCH],
        layers=peak[LAYERS],
        checkpoint_inputs=peak[CHECKPOINT_INPUTS],
        weight_casts=peak[WEIGHT_CASTS],
        logits_and_loss=peak[LOGITS_AND_LOSS],
        transient=peak[TRANSIENT],
        gradients_to_come=peak[GRADIENTS] - gradients,
        per_layer=_per_layer(shape, setup),
    )


def activation_bytes(shape: DecoderShape, setup: TrainingSetup) -> int:
    """The total of `predict_activations`, for those who ask for no part of it."""
    highest, gradients = _highest(shape, setup)
    return highest.total - gradients


def _highest(shape: DecoderShape, setup: TrainingSetup) -> tuple[Moment, int]:
    """The highest moment, and the bytes of all gradients."""

    def step(ledger: Ledger, layers: int) -> int:
        return go_through_step(ledger, replace(shape, layers=layers), setup)

    return highest_moment(step, shape.layers)


def go_through_step(ledger: Ledger, shape: DecoderShape, setup: TrainingSetup) -> int:
    """Books a step after the first, operation by operation, and returns its gradients' bytes."""
    tape = Tape(ledger)
    decoder = Decoder(tape, shape, setup)
    tokens = setup.batch * setup.tokens
    # All batches of a step are made before its first: ids, mask and labels, of 8 bytes each.
    batches = Storage(ledger, BATCH, setup.accumulate * 3 * 8 * tokens)
    for _ in range(min(setup.accumulate, 2)):  # the third is as the second: all gradients are there
        tape.backward(decoder.loss())
    ledger.begin(None)
    Storage(ledger, TRANSIENT, optimizer_scratch_bytes(decoder.linears.trained_matrices, setup))
    del batches
    return ledger.live[GRADIENTS]


def optimizer_scratch_bytes(trained_matrices: list[int], setup: TrainingSetup) -> int:
    """What the optimizer's step takes besides its state.

    torch's AdamW divides by √v/c + ε. On a CPU it goes weight by weight, with √v and √v/c at once,
    while the √v/c of the weight before still has its name. On CUDA all √v of a group are there
    together: as much as all trained matrices, which are one group. bitsandbytes updates in place.
    """
    if setup.optimizer != "adamw" or not trained_matrices:
        return 0
    if setup.device == "cuda":
        return sum(trained_matrices)
    before = [0, *trained_matrices]
    return max(last + 2 * size for last, size in zip(before, trained_matrices, strict=False))


def _per_layer(shape: DecoderShape, setup: TrainingSetup) -> int:
    """What one more block adds to what is kept."""
    kept = []
    for layers in (1, 2):
        ledger = Ledger()
        tape = Tape(ledger)
        decoder = Decoder(tape, replace(shape, layers=layers), replace(setup, checkpointing=False))
        loss = decoder.loss()
        kept.append(ledger.live[LAYERS])
        del loss
    return kept[1] - kept[0]
