"""Makes a tuned model: data → trainable model → steps → artifact, going on where it was stopped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.finetune.artifact import (
    ArtifactInfo,
    checkpoint_folder,
    lock_artifact,
    replacing_artifact,
)
from qbench.finetune.optimizers import fallback_reason, make_optimizer
from qbench.finetune.options import count_steps, sequence_tokens
from qbench.finetune.train.checkpoint import (
    CheckpointRule,
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from qbench.finetune.train.examples import altered_warning, encode_examples, pack
from qbench.finetune.train.loop import Curriculum, train
from qbench.finetune.train.packing import keeps_apart
from qbench.finetune.trainable import count_trained, trained_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qbench.core.spec import PrecisionRef
    from qbench.finetune.method import Method
    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.train.examples import Encoded
    from qbench.sources.data.tuning import Example, Splits


_SEEN = (
    "the model does not keep packed examples apart: each saw those before it in its block; set"
    " packing: false to train on them one by one"
)


@dataclass(frozen=True)
class Training:
    """A training that is done."""

    progress: Progress
    curriculum: Curriculum
    trained_weights: int
    """Number of weights that were trained."""
    trained_names: tuple[str, ...]
    saved_bytes: int
    """Of the artifact's weight files."""
    packed_apart: bool | None
    """Whether the examples of a block were kept apart; None where none were packed."""
    warnings: tuple[str, ...]


def prepare_curriculum(
    splits: Splits,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    *,
    seed: int,
    context_tokens: int | None,
    vocabulary: int,
    fold_ids: bool = False,
) -> Curriculum:
    """What the training sees.

    `vocabulary` is the number of rows of the model's embedding. `fold_ids` takes the ids modulo
    it: for weights that are random and have no tokenizer of their own. Raises `MeasurementError`
    for sequences that the context does not hold, and for a tokenizer that is not the model's.
    """
    most = sequence_tokens(options, context_tokens)
    if context_tokens is not None and most > context_tokens:
        raise MeasurementError(
            f"max_tokens is {most}, but the model's context is {context_tokens}; expected at most"
            f" {context_tokens}: shorten max_tokens, or leave it out"
        )
    encoded: dict[str, list[Encoded]] = {}
    left_out: dict[str, int] = {}
    sources: dict[str, Sequence[Example]] = {
        "train": splits.train,
        "validation": splits.validation,
    }
    for name, examples in sources.items():
        encoded[name] = encode_examples(
            examples, tokenizer, max_tokens=most, loss_on=options.loss_on
        )
        left_out[name] = len(examples) - len(encoded[name])
        if fold_ids:
            encoded[name] = [one.folded(vocabulary) for one in encoded[name]]
        _check_encoded(name, encoded[name], vocabulary)
    sequences = pack(encoded["train"], most) if options.packing else encoded["train"]
    pad_id = tokenizer.pad_token_id
    return Curriculum(
        train=sequences,
        validation=encoded["validation"],
        steps=count_steps(options, len(sequences)),
        batch=options.batch,
        accumulate=options.accumulate,
        seed=seed,
        # What is padded is masked: any id that the embedding has will do.
        pad_id=pad_id if pad_id is not None and pad_id < vocabulary else 0,
        length=max(len(sequence.ids) for sequence in sequences),
        left_out=left_out,
        warnings=altered_warning(encoded["train"]),
    )


def make_artifact(
    model: PreTrainedModel,
    method: Method,
    options: TrainingOptions,
    curriculum: Curriculum,
    *,
    key: str,
    precision: PrecisionRef,
    base_fingerprint: str,
    folder: Path,
    rule: CheckpointRule | None = None,
    after_step: Callable[[Progress], None] | None = None,
) -> Training:
    """Trains the model and saves the artifact of that key, in place of one that is there.

    `precision` is what the model is trained in, `folder` where its files lie. Waits for whoever
    else is making this artifact. `after_step` is called after each step, when its checkpoint is
    written. Raises `MeasurementError`.
    """
    with lock_artifact(key):
        trainable = method.prepare(
            model, options, precision=precision, seed=curriculum.seed, folder=folder
        )
        apart = None
        if any(sequence.lengths for sequence in curriculum.train):
            apart = keeps_apart(trainable.model, curriculum.train)
            if not apart:
                curriculum = replace(
                    curriculum, train=[replace(one, lengths=()) for one in curriculum.train]
                )
        if options.checkpointing:
            _enable_checkpointing(model)
        try:
            progress, notes = _train(
                trainable.model,
                curriculum,
                options,
                checkpoints=checkpoint_folder(key),
                rule=rule or CheckpointRule.from_environment(),
                after_step=after_step,
            )
        except NonFiniteError:
            # To go on from before it would only lead there again.
            shutil.rmtree(checkpoint_folder(key), ignore_errors=True)
            raise
        info = ArtifactInfo(
            key=key,
            method=method.name,
            precision=precision.label,
            base_fingerprint=base_fingerprint,
            seed=curriculum.seed,
            steps=curriculum.steps,
        )
        with replacing_artifact(info) as fresh:
            trainable.save(fresh)
            saved_bytes = sum(path.stat().st_size for path in fresh.glob("*.safetensors"))
    return Training(
        progress=progress,
        curriculum=curriculum,
        trained_weights=count_trained(trainable.model),
        trained_names=tuple(trained_weights(trainable.model)),
        saved_bytes=saved_bytes,
        packed_apart=apart,
        warnings=(*notes, *([_SEEN] if apart is False else [])),
    )


def _train(
    model: Any,
    curriculum: Curriculum,
    options: TrainingOptions,
    *,
    checkpoints: Path,
    rule: CheckpointRule,
    after_step: Callable[[Progress], None] | None,
) -> tuple[Progress, tuple[str, ...]]:
    """Takes all steps, from the last checkpoint on where there is one."""
    from transformers import get_scheduler

    optimizer = make_optimizer(options, model.parameters())
    scheduler = get_scheduler(
        "constant_with_warmup" if options.schedule == "constant" else options.schedule,
        optimizer,
        num_warmup_steps=int(options.warmup_share * curriculum.steps),
        num_training_steps=curriculum.steps,
    )
    progress = load_checkpoint(checkpoints, model, optimizer, scheduler)
    if progress is None:
        progress = Progress()
    else:
        progress.resumed_at.append(progress.step)
    fallback = fallback_reason(options.optimizer, str(next(model.parameters()).device))
    notes = [fallback] if fallback else []

    def step_taken() -> None:
        if progress.step < curriculum.steps and rule.due(progress.step):
            try:
                with rule.writing():
                    save_checkpoint(checkpoints, model, optimizer, scheduler, progress)
            except Exception as error:  # noqa: BLE001 - whatever it is, the training can go on
                rule.stop()
                notes.append(
                    f"no checkpoint could be written after step {progress.step}, so that a training"
                    f" that is stopped begins anew: {str(error) or type(error).__name__}"
                )
        if after_step is not None:
            after_step(progress)

    train(model, curriculum, optimizer, scheduler, progress, options, after_step=step_taken)
    return progress, tuple(notes)


def _enable_checkpointing(model: PreTrainedModel) -> None:
    """Keeps each block's input alone; frozen embeddings need no gradient for this kind of it."""
    if not model.supports_gradient_checkpointing:
        raise MeasurementError(
            f"{type(model).__name__} cannot compute its activations again; set checkpointing: false"
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _check_encoded(split: str, encoded: list[Encoded], vocabulary: int) -> None:
    if not encoded:
        raise MeasurementError(
            f"the {split} split is empty; expected at least one example; give more data"
        )
    if not all(one.scored for one in encoded):
        raise MeasurementError(
            f"an example of the {split} split has no token to learn from; expected completions"
            " that are not empty; fix the data or the recipe"
        )
    highest = max(max(one.ids) for one in encoded)
    if highest >= vocabulary:
        raise MeasurementError(
            f"the tokenizer gives id {highest}, but the model's embedding has {vocabulary} rows:"
            " the tokenizer is not this model's"
        )
