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
from qbench.core.spec import Deployment, PrecisionRef, TuningRef, slugify
from qbench.finetune.qat.layers import load_fake_quantized
from qbench.finetune.serve.adapter_storage import StorageKind, load_stored, store_adapter
from qbench.precisions import precisions
from qbench.precisions.integer.options import IntegerOptions
from qbench.precisions.storage import ITEM_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint

_STORED: dict[Deployment, StorageKind] = {"adapter-int8": "int8", "adapter-nf4": "nf4"}
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
    deploy: Deployment
    precision: PrecisionRef
    """What it is held in: `served_precision`, or for merged weights and full tuning any other."""
    artifact: Path
    """Folder of what the training left."""


def served_precision(tuning: TuningRef, deploy: Deployment) -> PrecisionRef:
    """What a tuned model is held in, in this deployment.

    Raises ValueError for `attached-fp16` of a precision that has no option for its type.
    """
    trained_in = tuning.precision
    if deploy == "fake-quantized":
        held = str(trained_in.options.get("dtype") or "bf16")
        return PrecisionRef(label=held, name=held)
    if deploy in {"merged", "merged-dequantized"}:
        name = "fp32" if trained_in.name == "fp32" else "bf16"
        return PrecisionRef(label=name, name=name)
    if deploy != "attached-fp16":
        return trained_in
    if trained_in.name in ITEM_BYTES:
        return PrecisionRef(label="fp16", name="fp16")
    changed = {
        name: "fp16"
        if name == "compute_dtype" or "compute_dtype" not in trained_in.options
        # Of a 4-bit format: what is not quantized follows the type that is computed in.
        else None
        for name in ("compute_dtype", "dtype")
        if name in trained_in.options
    }
    if not changed:
        raise ValueError(f"{trained_in.name} has no option for the type it computes in")
    table = precisions()[trained_in.name].options
    options = table.model_validate({**trained_in.options, **changed})
    shown = options.model_dump(mode="json", exclude_defaults=True)
    parts = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in shown.items()
    ]
    return PrecisionRef(
        label=slugify("-".join([trained_in.name, *parts])),
        name=trained_in.name,
        options=options.model_dump(mode="json"),
    )


def compute_type(precision: PrecisionRef) -> str:
    """The type that matrices are multiplied in (`bf16` …): what an attached adapter is held in."""
    return _type_of(precision, "compute_dtype", "dtype")


def deployed_checkpoint(served: ServedModel) -> Checkpoint:
    """The checkpoint that the served model is loaded from: the base's, or one of its own.

    Merged weights are made here on first use, which takes time and memory: call it before anything
    is measured. Raises `MeasurementError`.
    """
    if served.deploy not in _CHECKPOINTS:
        return served.base
    if served.tuning.method in WHOLE_MODELS:
        return replace(served.base, folder=served.artifact)
    from qbench.finetune.serve.merge import merged_checkpoint

    folder = merged_checkpoint(
        served.base,
        served.artifact,
        # What the precision starts from, so that nothing is rounded twice.
        _type_of(served.precision, "dtype", "compute_dtype"),
        dequantized_from=served.tuning.precision if served.deploy == "merged-dequantized" else None,
    )
    return replace(served.base, folder=folder)


def load_deployed(served: ServedModel, source: Checkpoint | None = None) -> PreTrainedModel:
    """Loads a tuned model as it is served: a plain transformers model, frozen, in eval mode.

    `source` is what `deployed_checkpoint` gave, where that was called before. Raises
    `MeasurementError` for an artifact that is missing, damaged or of another base, and for a
    deployment that the method does not have.
    """
    tuning, deploy, precision = served.tuning, served.deploy, served.precision
    if tuning.method in WHOLE_MODELS and deploy not in WHOLE_MODELS[tuning.method]:
        expected = " or ".join(WHOLE_MODELS[tuning.method])
        raise MeasurementError(
            f"{tuning.method} tuning leaves no adapter: found {deploy}, expected {expected}, its"
            " own weights"
        )
    source = source or deployed_checkpoint(served)
    if deploy == "fake-quantized":
        return load_fake_quantized(source, IntegerOptions.model_validate(tuning.precision.options))
    if deploy in _CHECKPOINTS:
        return precisions()[precision.name].load(source, precision.options)
    from qbench.finetune.lora_extra import NO_SCALE_IN_PLACE
    from qbench.finetune.serve.attach import attach_adapter, cast_adapter, read_adapter
    from qbench.finetune.serve.merge import merge_attached

    adapter = read_adapter(served.artifact)
    if deploy in _STORED:
        stored = store_adapter(served.artifact, _STORED[deploy])
        adapter = replace(adapter, tensors=load_stored(stored))
    model = precisions()[precision.name].load(source, precision.options)
    tuner = attach_adapter(model, adapter)
    if deploy == "merged-in-place":
        if adapter.config.lora_bias:
            raise MeasurementError(NO_SCALE_IN_PLACE)
        return merge_attached(model, tuner)
    cast_adapter(model, compute_type(precision))
    return model


def _type_of(precision: PrecisionRef, *options: str) -> str:
    """The first of the options that names a floating type; a floating precision is one itself."""
    named = [precision.name, *(precision.options.get(option) for option in options)]
    return next((name for name in named if name in ITEM_BYTES), "bf16")
