"""The options that all methods share, and what can be told of them without a model in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from qbench.core.errors import Problem
from qbench.core.number_types import BF16, FP16, AutocastType
from qbench.core.spec import Frozen
from qbench.precisions import products_of

if TYPE_CHECKING:
    from qbench.core.spec import PrecisionRef, ResolvedModel

LONGEST_BY_DEFAULT = 512
"""Tokens of a sequence where the suite does not say; fewer where the context is shorter."""
OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainingOptions(Frozen):
    """What a training is told whatever is tuned. Every arm of a suite sees the same examples."""

    optimizer: OptimizerName = "adamw"
    """torch's AdamW, or bitsandbytes': states in 8-bit blocks, and paged out to the machine's
    memory when the GPU's is full. A CPU has no pages: there a paged one is its unpaged twin."""
    learning_rate: PositiveNumber = 2e-4
    """The highest, reached after the warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate changes after the warm-up: down to zero, or not at all."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """AdamW's decay, of matrices alone: biases and norms are left out."""
    epochs: PositiveNumber = 1.0
    """How often each example is seen; the last step is filled up from the next epoch."""
    steps: PositiveInt | None = None
    """Optimizer steps; given, the epochs do not count."""
    batch: PositiveInt = 8
    """Sequences at once."""
    accumulate: PositiveInt = 1
    """Batches whose gradients make one step, the loss averaged over the tokens of all of them."""
    clip: PositiveNumber | None = 1.0
    """Longest gradient, by its Euclidean norm over all trainable weights; null for no limit."""
    checkpointing: bool = False
    """Gradient checkpointing: activations are computed again in the backward pass, not kept."""
    compute: AutocastType = BF16
    """Autocast type of the forward pass; with fp32 each layer computes in its weights' own type."""
    max_tokens: Annotated[int, Field(ge=2)] | None = None
    """Longest sequence; longer examples are left out, never cut. Unless given, the model's context,
    512 at most."""
    packing: bool = False
    """Put whole examples one behind the other up to `max_tokens`, none of which sees those before
    it (where the model cannot be told so, the record says it). Else each is padded to the longest
    of the training split, so that every step does the same work."""
    loss_on: Literal["completion", "all"] = "completion"
    """Which tokens are learned: the completion's, or the prompt's too."""
    validate_every: PositiveInt | None = None
    """Steps between evaluations on the validation split; null for before and after alone."""


def count_steps(options: TrainingOptions, sequences: int) -> int:
    """Optimizer steps for so many sequences (examples, or the blocks they are packed into)."""
    if options.steps is not None:
        return options.steps
    return max(1, math.ceil(options.epochs * sequences / (options.batch * options.accumulate)))


def sequence_tokens(options: TrainingOptions, context_tokens: int | None) -> int:
    """The longest sequence, for a model of that context (None: not stated)."""
    if options.max_tokens is not None:
        return options.max_tokens
    return min(LONGEST_BY_DEFAULT, context_tokens or LONGEST_BY_DEFAULT)


def misfit(options: TrainingOptions, model: ResolvedModel) -> Problem | None:
    """Which option cannot be done with the model; None if all can."""
    context = model.context_tokens
    if context is None or options.max_tokens is None or options.max_tokens <= context:
        return None
    return Problem(
        "max_tokens",
        str(options.max_tokens),
        f"at most {context}, the context of {model.ref.name}",
        "shorten it, or leave it out",
    )


def computes_in_fp16(precision: PrecisionRef) -> bool:
    """Whether layers of this precision multiply in fp16 when nothing is cast."""
    products = products_of(precision)
    return products is not None and FP16 in {products.rest, products.compute}
