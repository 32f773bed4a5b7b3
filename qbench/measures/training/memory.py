"""The peak of a training step by kind: measured, predicted from shapes, and the rest."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.qat.qat import QatOptions
from qbench.precisions import products_of
from qbench.predict.activations import predict_activations
from qbench.predict.peaks import training_peak
from qbench.predict.shapes import (
    TRAINED,
    TrainingSetup,
    lacks_kernel,
    unpredicted,
)
from qbench.predict.stated_shapes import decoder_shape

if TYPE_CHECKING:
    from qbench.core.spec import PrecisionRef
    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.train.make import Training
    from qbench.measures.loaded import LoadedModel
    from qbench.predict.peaks import Peak
    from qbench.predict.shapes import DecoderShape

MEMORY_KINDS = {
    "base_weights": "weights of the base",
    "quantization_state": "quantization state",
    "adapters": "weights of the adapters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations_predicted": "activations, predicted",
    "unexplained": "unexplained rest",
    "peak": "peak of a training step",
}
_NOT_MEASURED = "memory is measured in a step after the first, and there was but one"


@dataclass(frozen=True)
class ExplainedMemory:
    """Where the peak of a training step comes from."""

    bytes: dict[str, float | None]
    """By kind, in the order of `MEMORY_KINDS`; None for what is not known."""
    reason: str | None
    """Why something is not known."""
    activations: dict[str, int] | None
    """The predicted activations by part."""


def explain_memory(
    training: Training, options: TrainingOptions, loaded: LoadedModel, held: PrecisionRef
) -> ExplainedMemory:
    """Splits the measured peak up; `held` is the precision that the model was loaded in."""
    found = training.progress.memory
    values: dict[str, float | None] = dict.fromkeys(MEMORY_KINDS)
    if found is None:
        return ExplainedMemory(values, _NOT_MEASURED, None)
    values.update(found)
    shape, reason = decoder_shape(loaded.model.config.to_dict())
    reason = reason or _not_predicted(options, held, loaded)
    if shape is None or reason is not None:
        return ExplainedMemory(values, reason, None)
    setup = _setup(shape, training, options, loaded, held)
    reason = unpredicted(shape, setup)
    if reason is not None:
        return ExplainedMemory(values, reason, None)
    activations = predict_activations(shape, setup)
    known = sum(value for kind, value in found.items() if kind != "peak") + activations.total
    values |= {
        "activations_predicted": activations.total,
        "unexplained": found["peak"] - known,
    }
    return ExplainedMemory(values, None, asdict(activations))


def predict_step(
    training: Training, method: str, options: TrainingOptions, loaded: LoadedModel
) -> Peak:
    """The peak of the step whose memory was measured, from shapes alone: nothing of it is counted.

    Else than before the training, the length of the sequences is known.
    """
    return training_peak(
        loaded.resolved,
        method,
        loaded.cell.precision,
        options,
        tokens=training.curriculum.length,
        padded=_is_padded(training),
        device="cuda" if loaded.device.startswith("cuda") else "cpu",
        flash=loaded.has_flash,
    )


def adapted_layers(names: tuple[str, ...]) -> list[str]:
    """The layers with an adapter, by the last part of their name; none after full tuning."""
    found: Any = (re.search(r"([^.]+)\.lora_(?:embedding_)?A\b", name) for name in names)
    return sorted({match.group(1) for match in found if match})


def _not_predicted(options: TrainingOptions, held: PrecisionRef, loaded: LoadedModel) -> str | None:
    """Why the activations are not known of this training; None if they are."""
    if isinstance(options, QatOptions):
        return "what rounding a layer's weights takes in a step of QAT is not predicted"
    products = products_of(held)
    if products is None or products.kind not in TRAINED:
        return f"the activations are not known of the precision {held.name}"
    attention = loaded.model.config._attn_implementation  # noqa: SLF001 - has no public name
    if attention not in {"sdpa", "eager"}:
        return f"the activations are not known of the attention {attention}"
    if isinstance(options, LoraOptions) and not options.is_plain:
        return "the activations of dora, of trained biases and of extra options are not known"
    return None


def _setup(
    shape: DecoderShape,
    training: Training,
    options: TrainingOptions,
    loaded: LoadedModel,
    held: PrecisionRef,
) -> TrainingSetup:
    curriculum = training.curriculum
    arguments: dict[str, Any] = {
        "batch": curriculum.batch,
        "tokens": curriculum.length,
        "method": "full",
        "products": products_of(held),
        "compute": options.compute,
        "checkpointing": options.checkpointing,
        "attention": loaded.model.config._attn_implementation,  # noqa: SLF001 - as above
        "padded": _is_padded(training),
        "accumulate": curriculum.accumulate,
        "optimizer": options.optimizer,
        "device": "cuda" if loaded.device.startswith("cuda") else "cpu",
    }
    if isinstance(options, LoraOptions):
        arguments |= {
            "method": "lora",
            "targets": frozenset(adapted_layers(training.trained_names)),
            "rank": options.rank,
            "adapter_dropout": options.dropout > 0,
        }
    setup = TrainingSetup(**arguments)
    return replace(setup, by_definition=lacks_kernel(shape, setup, flash=loaded.has_flash))


def _is_padded(training: Training) -> bool:
    """Whether some sequence of the measured step is, or is packed: attention then takes a mask."""
    curriculum, step = training.curriculum, training.progress.memory_step or 0
    rows = [row for rows in curriculum.step_batches(step) for row in rows]
    return any(len(row.ids) < curriculum.length or row.lengths for row in rows)
