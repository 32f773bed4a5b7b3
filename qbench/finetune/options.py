"""The options that all methods share, and what can be told of them without a model in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from qbench.core.aliases import Also, AlsoValues
from qbench.core.errors import Problem
from qbench.core.number_types import BF16, FP16, AutocastType, TorchNames
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

    optimizer: Annotated[
        OptimizerName,
        AlsoValues({"adamw_torch": "adamw", "adamw_bnb_8bit": "adamw_8bit"}),
        Also("optim"),
    ] = "adamw"
    """torch's AdamW, or bitsandbytes': states in 8-bit blocks, and paged out to the machine's
    memory when the GPU's is full. A CPU has no pages: there a paged one is its unpaged twin."""
    learning_rate: PositiveNumber = 2e-4
    """The highest, reached after the warm-up."""
    schedule: Annotated[
        Literal["linear", "cosine", "constant"],
        AlsoValues({"constant_with_warmup": "constant"}),
        Also(
            unlike={
                "lr_scheduler_type": "write `schedule`, whose `constant` begins with the warm-up,"
                " as constant_with_warmup does"
            }
        ),
    ] = "linear"
    """How the learning rate changes after the warm-up: down to zero, or not at all."""
    warmup_share: Annotated[
        float,
        Field(ge=0, lt=1),
        Also(
            "warmup_ratio",
            unlike={"warmup_steps": "`warmup_share` is a share of the steps, not a number of them"},
        ),
    ] = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """AdamW's decay, of matrices alone: biases and norms are left out."""
    epochs: Annotated[PositiveNumber, Also("num_train_epochs", "num_epochs")] = 1.0
    """How often each example is seen; the last step is filled up from the next epoch."""
    steps: Annotated[PositiveInt | None, Also("max_steps")] = None
    """Optimizer steps; given, the epochs do not count."""
    batch: Annotated[
        PositiveInt, Also("per_device_train_batch_size", "batch_size", "micro_batch_size")
    ] = 8
    """Sequences at once."""
    accumulate: Annotated[PositiveInt, Also("gradient_accumulation_steps")] = 1
    """Batches whose gradients make one step, the loss averaged over the tokens of all of them."""
    clip: Annotated[PositiveNumber | None, Also("max_grad_norm", "clip_grad_norm")] = 1.0
    """Longest gradient, by its Euclidean norm over all trainable weights; null for no limit."""
    checkpointing: Annotated[bool, Also("gradient_checkpointing", "activation_checkpointing")] = (
        False
    )
    """Gradient checkpointing: activations are computed again in the backward pass, not kept."""
    compute: Annotated[
        AutocastType,
        TorchNames,
        Also(
            unlike={
                BF16: "write `compute: bf16`, or `compute: fp32` for none of it",
                FP16: "nothing is trained in fp16: write `compute: bf16` or `compute: fp32`",
            }
        ),
    ] = BF16
    """Autocast type of the forward pass; with fp32 each layer computes in its weights' own type."""
    max_tokens: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Also(
            unlike=dict.fromkeys(
                ("max_length", "max_seq_length", "sequence_len", "cutoff_len"),
                "write `max_tokens`, which leaves longer examples out, where others cut them",
            )
        ),
    ] = None
    """Longest sequence; longer examples are left out, never cut. Unless given, the model's context,
    512 at most."""
    packing: bool = False
    """Put whole examples one behind the other up to `max_tokens`, none of which sees those before
    it (where the model cannot be told so, the record says it). Else each is padded to the longest
    of the training split, so that every step does the same work."""
    loss_on: Annotated[
        Literal["completion", "all"],
        Also(
            unlike=dict.fromkeys(
                ("completion_only_loss", "train_on_inputs", "train_on_prompt"),
                "write `loss_on: completion`, or `loss_on: all` for the prompt too",
            )
        ),
    ] = "completion"
    """Which tokens are learned: the completion's, or the prompt's too."""
    validate_every: Annotated[PositiveInt | None, Also("eval_steps")] = None
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
