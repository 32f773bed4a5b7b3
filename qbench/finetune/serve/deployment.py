"""How a tuned model is served: each deployment is a model of its own.

    attached             base as it was trained, LoRA's layers beside its own
    attached-fp16        the same computed in fp16; a quantized base is quantized from fp16 then
    merged               adapter merged into the original weights in fp32, rounded to 16 bits
    merged-requantized   those merged weights quantized as the base was
    merged-dequantized   adapter merged into the base's dequantized weights, rounded to 16 bits
    merged-in-place      adapter merged into the quantized layers by PEFT, which stay quantized
    adapter-int8, -nf4   attached, from an adapter that was stored in 8 or 4 bits
    quantized            tuned weights, or merged ones, quantized: by PTQ, or converted (QAT)
    fake-quantized       after QAT, before conversion: the weights in 16 bits, rounded when used

An attached adapter is trained in fp32 under an autocast; it is served in the type that its base
computes in, which is what the autocast computed with, and what a user who serves it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError
from qbench.core.number_types import BF16, FP16, FP32
from qbench.finetune.qat.layers import load_fake_quantized
from qbench.finetune.qat.qat import rounding_of
from qbench.finetune.serve.adapter_storage import BLOCK, load_stored, store_adapter
from qbench.precisions import is_quantized, options_of, precisions
from qbench.precisions.computing import compute_type, computed_in, rest_type
from qbench.precisions.floating import in_type

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import Deployment, PrecisionRef, TuningRef

_CHECKPOINTS: frozenset[Deployment] = frozenset(
    {"merged", "merged-requantized", "merged-dequantized", "quantized", "fake-quantized"}
)
"""Deployments that are loaded from a checkpoint of their own."""
WHOLE_MODELS: dict[str, tuple[Deployment, ...]] = {
    "full": ("merged", "quantized"),
    "qat": ("quantized", "fake-quantized"),
}
"""Methods that tune all weights, whose artifact is a checkpoint, with their deployments."""


@dataclass(frozen=True)
class ServedModel:
    """A tuned model in one of its deployments, before it is loaded."""

    base: Checkpoint
    """What was tuned."""
    tuning: TuningRef
    deployment: Deployment
    precision: PrecisionRef
    """What it is held in: `served_precision`, or for merged weights and full tuning any other."""
    artifact: Path
    """Folder of what the training left."""


def served_precision(tuning: TuningRef, deployment: Deployment) -> PrecisionRef:
    """What a tuned model is held in, in this deployment.

    Raises ValueError for `attached-fp16` of a precision that has no option for its type.
    """
    trained_in = tuning.precision
    if deployment == "fake-quantized":
        return in_type(rest_type(trained_in))
    if deployment in {"merged", "merged-dequantized"}:
        plain = not is_quantized(trained_in) and rest_type(trained_in) == FP32
        return in_type(FP32 if plain else BF16)
    if deployment != "attached-fp16":
        return trained_in
    served = computed_in(trained_in, FP16)
    if served is None:
        raise ValueError(f"{trained_in.name} has no option for the type it computes in")
    return served


def deployed_checkpoint(served: ServedModel) -> Checkpoint:
    """The checkpoint that the served model is loaded from: the base's, or one of its own.

    Merged weights are made here on first use, which takes time and memory: call it before anything
    is measured. Raises `MeasurementError`.
    """
    if served.deployment not in _CHECKPOINTS:
        return served.base
    if served.tuning.method in WHOLE_MODELS:
        return replace(served.base, folder=served.artifact)
    from qbench.finetune.serve.merge import merged_checkpoint

    folder = merged_checkpoint(
        served.base,
        served.artifact,
        # What the precision starts from, so that nothing is rounded twice.
        rest_type(served.precision),
        dequantized_from=served.tuning.precision
        if served.deployment == "merged-dequantized"
        else None,
    )
    return replace(served.base, folder=folder)


def load_deployed(served: ServedModel, source: Checkpoint | None = None) -> PreTrainedModel:
    """Loads a tuned model as it is served: a plain transformers model, frozen, in eval mode.

    `source` is what `deployed_checkpoint` gave, where that was called before. Raises
    `MeasurementError` for an artifact that is missing, damaged or of another base, and for a
    deployment that the method does not have.
    """
    tuning, deployment, precision = served.tuning, served.deployment, served.precision
    if tuning.method in WHOLE_MODELS and deployment not in WHOLE_MODELS[tuning.method]:
        expected = " or ".join(WHOLE_MODELS[tuning.method])
        raise MeasurementError(
            f"{tuning.method} tuning leaves no adapter: found {deployment}, expected {expected},"
            " its own weights"
        )
    source = source or deployed_checkpoint(served)
    if deployment == "fake-quantized":
        return load_fake_quantized(source, rounding_of(tuning.precision))
    if deployment in _CHECKPOINTS:
        return precisions()[precision.name].load(source, options_of(precision))
    from qbench.finetune.lora_extra import NO_SCALE_IN_PLACE
    from qbench.finetune.serve.attach import attach_adapter, cast_adapter, read_adapter
    from qbench.finetune.serve.merge import merge_attached

    adapter = read_adapter(served.artifact)
    if deployment in BLOCK:
        adapter = replace(adapter, tensors=load_stored(store_adapter(served.artifact, deployment)))
    model = precisions()[precision.name].load(source, options_of(precision))
    tuner = attach_adapter(model, adapter)
    if deployment == "merged-in-place":
        if adapter.config.lora_bias:
            raise MeasurementError(NO_SCALE_IN_PLACE)
        return merge_attached(model, tuner)
    cast_adapter(model, compute_type(precision))
    return model
