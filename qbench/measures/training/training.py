"""A training: it makes the tuned model, and is recorded with what it cost and what it gained.

It is no measurement that a suite asks for: the plan makes its item for each tuned model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.errors import MeasurementError
from qbench.core.gpu import gpu_probes
from qbench.core.options import typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, PrecisionRef
from qbench.finetune import methods
from qbench.finetune.train.make import make_artifact, prepare_curriculum
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.roofline import training as roofline_training
from qbench.measures.roofline.energy import open_energy_meter
from qbench.measures.roofline.training import StepWatch, training_limits
from qbench.measures.training.memory import (
    MEMORY_KINDS,
    adapted_layers,
    explain_memory,
    predict_step,
)
from qbench.measures.training.steps import StepTeller
from qbench.precisions.inventory import logical_weights
from qbench.sources.data.tuning import ResolvedTuningData, load_splits

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.record import Metric
    from qbench.core.spec import Item, ResolvedModel
    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.train.checkpoint import Progress
    from qbench.finetune.train.make import Training
    from qbench.measures.loaded import LoadedModel
    from qbench.predict.peaks import Peak

LAST_SHARE = 0.1
"""Share of the steps, the last ones, whose mean loss is `training.loss`."""
_MEMORY_FORMULAS = {
    "activations_predicted": "from shapes, operation by operation: what the step takes at its"
    " highest moment beside the other kinds",
    "unexplained": "the peak less all the other kinds",
    "peak": "of one step after the first, evaluation apart; CUDA: the allocator's less cuBLAS'"
    " workspaces, summed over the model's GPUs, CPU: live bytes of all tensors",
}
_TIMES = {
    "step_time": ("step", "forward, backward and optimizer"),
    "forward_time": ("forward", "forward pass and loss"),
    "backward_time": ("backward", "backward pass"),
    "optimizer_time": ("optimizer", "clipping, update and schedule"),
}
_NO_TIMES = "every step was a process's first or the one whose memory was measured; train for more"

METRICS = (
    MetricDefinition(
        name="training.loss",
        unit="nat",
        better="lower",
        title="training loss",
        formula=f"mean over the last {LAST_SHARE:.0%} of the steps; a step's is the mean over its"
        " scored tokens",
    ),
    *(
        MetricDefinition(
            name=f"training.heldout_loss_{when}",
            unit="nat",
            better="neither" if when == "before" else "lower",
            title=f"held-out loss {when}",
            formula=f"mean over the scored tokens of the validation split {when} the training",
        )
        for when in ("before", "after")
    ),
    MetricDefinition(
        name="training.trainable_weights",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="trainable weights",
        formula="weights that require a gradient",
    ),
    MetricDefinition(
        name="training.trainable_share",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="trainable share",
        formula="trainable weights over the base's logical weights (4-bit ones counted unpacked)",
        also_called=("trainable%",),
    ),
    MetricDefinition(
        name="training.adapter_bytes",
        unit="B",
        better="lower",
        title="tuned weights on disk",
        formula="the artifact's weight files: the adapter, or after full tuning all weights",
    ),
    MetricDefinition(
        name="training.adapter_share",
        unit="1",
        varies_by="nothing",
        better="lower",
        title="tuned weights, share",
        formula="of the bytes of the base's checkpoint",
    ),
    *(
        MetricDefinition(
            name=f"training.{name}",
            unit="s",
            better="lower",
            title=f"{title} time",
            formula=f"median over the timed steps: {formula}",
        )
        for name, (title, formula) in _TIMES.items()
    ),
    MetricDefinition(
        name="training.tokens_per_second",
        unit="tokens/s",
        better="higher",
        title="tokens a second",
        formula="tokens that are no padding over time, both of the timed steps",
    ),
    MetricDefinition(
        name="training.total_time",
        unit="s",
        better="lower",
        title="training time",
        formula="sum over all steps; evaluation, checkpoints and data apart; a step that is not"
        " timed counts as a median one",
    ),
    *roofline_training.METRICS,
    *(
        MetricDefinition(
            name=f"training.memory.{kind}",
            unit="B",
            better="neither" if kind == "activations_predicted" else "lower",
            title=title,
            formula=_MEMORY_FORMULAS.get(kind, "bytes of its tensors after a backward pass"),
        )
        for kind, title in MEMORY_KINDS.items()
    ),
    MetricDefinition(
        name="training.memory.peak_predicted",
        unit="B",
        better="neither",
        title="predicted peak of a training step",
        formula="from shapes alone: weights, states, gradients and activations of the measured"
        " step's batch and length",
    ),
)


class TrainingItemOptions(Frozen):
    """A training has no options here: they stand under `finetune`."""


class TrainingParams(Frozen):
    """What the one item trains, as it stands in its record."""

    data: ResolvedTuningData
    method: str
    """Name in the table of methods."""
    options: dict[str, Any]
    """All of the method's, plain: which class they are of follows from its name."""
    seed: int
    packed: Literal["apart"] | None = None
    """Where examples are packed: apart from records whose packed ones saw those before them."""


@dataclass(frozen=True)
class TrainingMeasurement(Measurement):
    """What a training cost and gained."""

    name: str = "training"
    summary: str = "loss, time and memory by kind of each fine-tuning; planned by `finetune`"
    options: type[Frozen] = TrainingItemOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    of_machine: bool = True

    def misfit(self, options: TrainingItemOptions, model: ResolvedModel) -> Problem | None:
        """Nothing to misfit."""
        return None

    def items(self, options: TrainingItemOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """None: the plan makes the item of each training."""
        return []

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Trains the loaded model, which is another one afterwards, and saves the artifact."""
        params = typed_options(TrainingParams, item.params)
        if loaded.artifact_key is None:
            raise MeasurementError("a training needs the key of the artifact that it makes")
        method = methods()[params.method]
        options = typed_options(method.options, params.options)
        tokenizer = loaded.tokenizer
        splits = load_splits(params.data, tokenizer)
        curriculum = prepare_curriculum(
            splits,
            tokenizer,
            options,
            seed=params.seed,
            context_tokens=loaded.resolved.context_tokens,
            vocabulary=loaded.model.get_input_embeddings().weight.shape[0],
            fold_ids=loaded.has_random_weights,
        )
        base_weights = logical_weights(loaded.model)
        with (
            gpu_probes(loaded.devices) as probes,
            open_energy_meter(loaded.device, probes.values()) as energy,
        ):
            watch = StepWatch(curriculum.steps, probes, energy, loaded.device)
            tell = StepTeller(curriculum.steps, loaded.steps)

            def after_step(progress: Progress) -> None:
                watch(progress)
                tell(progress)

            training = make_artifact(
                loaded.model,
                method,
                options,
                curriculum,
                key=loaded.artifact_key,
                precision=loaded.cell.precision,
                base_fingerprint=loaded.resolved.fingerprint,
                folder=loaded.checkpoint.folder,
                after_step=after_step,
            )
        held = method.load_precision(loaded.cell.precision, options)
        limits = training_limits(training, options, loaded, held, watch)
        predicted = predict_step(training, params.method, options, loaded)
        outcome = _outcome(training, options, loaded, held, base_weights, limits, predicted)
        return replace(
            outcome, warnings=(*splits.warnings, *curriculum.warnings, *outcome.warnings)
        )


def _outcome(
    training: Training,
    options: TrainingOptions,
    loaded: LoadedModel,
    held: PrecisionRef,
    base_weights: int,
    limits: Outcome,
    predicted: Peak,
) -> Outcome:
    progress, curriculum = training.progress, training.curriculum
    memory = explain_memory(training, options, loaded, held)
    last = max(1, round(LAST_SHARE * curriculum.steps))
    validation = sorted(progress.validation.items())
    disk_bytes = loaded.resolved.disk_bytes
    values: dict[str, float] = {
        "loss": fmean(progress.losses[-last:]),
        "heldout_loss_before": validation[0][1],
        "heldout_loss_after": validation[-1][1],
        "trainable_weights": training.trained_weights,
        "trainable_share": training.trained_weights / base_weights,
        "adapter_bytes": training.saved_bytes,
    }
    return Outcome(
        metrics=(
            *(make_metric(METRICS, f"training.{name}", value) for name, value in values.items()),
            make_metric(
                METRICS,
                "training.adapter_share",
                training.saved_bytes / disk_bytes if disk_bytes else None,
                reason="the bytes of the base's checkpoint are not known",
            ),
            *_time_metrics(progress),
            *limits.metrics,
            *(
                make_metric(METRICS, f"training.memory.{kind}", value, reason=memory.reason)
                for kind, value in memory.bytes.items()
            ),
            make_metric(
                METRICS,
                "training.memory.peak_predicted",
                predicted.total,
                reason=predicted.reason,
            ),
        ),
        series={
            "step_loss": progress.losses,
            "step_learning_rate": progress.learning_rates,
            "validation_loss": [loss for _, loss in validation],
            "validation_step": [float(step) for step, _ in validation],
        },
        details={
            "steps": curriculum.steps,
            "sequences": len(curriculum.train),
            "sequence_tokens": curriculum.length,
            "tokens": sum(progress.tokens),
            "left_out": curriculum.left_out,
            "packed_apart": training.packed_apart,
            "adapters_on": adapted_layers(training.trained_names),
            "activations": memory.activations,
            "memory_step": progress.memory_step,
            **({"memory_by_device": by_device} if (by_device := progress.memory_by_device) else {}),
            "untimed_steps": progress.untimed,
            "resumed_at": progress.resumed_at,
            **limits.details,
        },
        warnings=(*training.warnings, *limits.warnings, *_left_out_warnings(training)),
    )


def _time_metrics(progress: Progress) -> list[Metric]:
    untimed = set(progress.untimed)
    timed = [step for step in range(progress.step) if step not in untimed]
    parts = {
        "forward_time": progress.forward_s,
        "backward_time": progress.backward_s,
        "optimizer_time": progress.optimizer_s,
    }
    samples = {name: [row[step] for step in timed] for name, row in parts.items()}
    steps_s = [sum(parts) for parts in zip(*samples.values(), strict=True)]
    samples = {"step_time": steps_s, **samples}
    spent_s = sum(steps_s)
    tokens = sum(progress.tokens[step] for step in timed)
    totals = {
        "tokens_per_second": tokens / spent_s if timed else None,
        "total_time": spent_s + len(untimed) * median(steps_s) if timed else None,
    }
    return [
        *(
            make_metric(
                METRICS,
                f"training.{name}",
                median(values) if values else None,
                reason=_NO_TIMES,
                samples=values or None,
            )
            for name, values in samples.items()
        ),
        *(
            make_metric(METRICS, f"training.{name}", value, reason=_NO_TIMES)
            for name, value in totals.items()
        ),
    ]


def _left_out_warnings(training: Training) -> tuple[str, ...]:
    left_out = {split: count for split, count in training.curriculum.left_out.items() if count}
    if not left_out:
        return ()
    counts = ", ".join(f"{count} of {split}" for split, count in left_out.items())
    words = (
        f"examples longer than a sequence may be were left out ({counts}); raise max_tokens, up to"
        " the model's context, to train on them"
    )
    return (words,)


TRAINING = TrainingMeasurement()
