"""What a cell's model keeps before it computes anything, by arithmetic: nothing is loaded.

A layer with a LoRA adapter, of `in` inputs and `out` outputs, gets factors of r × in and out × r:
r·(in + out) weights. DoRA adds one magnitude an output. Hu et al. 2021, arXiv 2106.09685; Liu et
al. 2024, arXiv 2402.09353.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import FP16, ITEM_BYTES
from qbench.finetune import training_options
from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.serve.deployment import WHOLE_MODELS
from qbench.finetune.targets import is_tied, targeted, tied_matrices, under
from qbench.precisions import options_of, precisions, products_of
from qbench.precisions.computing import compute_type
from qbench.precisions.storage import fixed_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qbench.core.spec import (
        Cell,
        Deployment,
        ModelShape,
        PrecisionRef,
        ResolvedModel,
        StaticBytes,
        TuningRef,
    )

_MAGNITUDE_BYTES = 4


def predicted_bytes(cell: Cell, model: ResolvedModel) -> StaticBytes | None:
    """Static bytes by arithmetic; None for a training, or where the shapes are not known."""
    held = precisions()[cell.precision.name]
    if model.shape is None or held.takes_quantized != bool(model.quantization):
        return None
    base = stored_bytes(model.shape, cell.precision)
    if cell.tuning is None:
        return base
    if cell.deploy is None:
        return None
    adapters = adapter_static_bytes(
        model.shape, model.architecture, cell.tuning, cell.deploy, cell.precision
    )
    return None if adapters is None else base.model_copy(update={"adapters": adapters})


def saved_by_packing(shape: ModelShape | None, precision: PrecisionRef) -> float:
    """Bytes by which a model as it is served is smaller than as it is held here.

    Integers of 2 to 7 bits are simulated in bytes where no packed kernel takes them. What is told
    of a format is what it takes as it is served; what its simulation takes stands beside that. 0
    where codes take the bits that they have, or nobody knows.
    """
    if shape is None:
        return 0.0
    packed = precisions()[precision.name].packed_bytes(shape, options_of(precision))
    return 0.0 if packed is None else stored_bytes(shape, precision).total - packed


def saved_in_experts(shape: ModelShape) -> int:
    """Of that, what a checkpoint's experts take less in its files than as the numbers they are."""
    return sum(
        fixed_bytes(tensor, 0) - tensor.packed_bytes
        for tensor in shape.tensors
        if tensor.role != "linear" and tensor.packed_bytes
    )


def stored_bytes(shape: ModelShape, precision: PrecisionRef) -> StaticBytes:
    """What a base takes in a precision, by arithmetic."""
    return _stored(precisions()[precision.name].storage, as_loaded(shape, precision), precision)


def as_loaded(shape: ModelShape, precision: PrecisionRef) -> ModelShape:
    """The shape with float32 for what transformers does not load in fp16 where that is the type."""
    if not any(tensor.wide_in_fp16 for tensor in shape.tensors):
        return shape
    products = products_of(precision)
    if products is None or products.rest != FP16:
        return shape
    tensors = (
        one.model_copy(update={"dtype": "float32"}) if one.wide_in_fp16 else one
        for one in shape.tensors
    )
    return shape.model_copy(update={"tensors": tuple(tensors)})


@lru_cache(maxsize=256)
def _stored(
    storage: Callable[[ModelShape, Any], StaticBytes], shape: ModelShape, precision: PrecisionRef
) -> StaticBytes:
    """Once for all items of a cell, and for all cells that hold a base the same way."""
    return storage(shape, options_of(precision))


def adapter_static_bytes(
    shape: ModelShape,
    architecture: str,
    tuning: TuningRef,
    deployment: Deployment,
    precision: PrecisionRef,
) -> int | None:
    """Bytes that the adapter of a served cell takes beside its base; 0 where none is attached.

    `architecture` is the base's `model_type`, `precision` what the cell is held in. None where it
    is not known from the shapes: targets that they do not tell, or arguments given to PEFT as they
    are.
    """
    options = training_options(tuning)
    extra = options.extra if isinstance(options, LoraOptions) else {}
    if tuning.method in WHOLE_MODELS or deployment.startswith(("merged", "quantized")):
        return None if _unties(shape, extra) else 0
    if not isinstance(options, LoraOptions):
        return None
    chosen = targeted(shape, architecture, options.target)
    if chosen is None or extra:
        return None
    rank = options.saved_rank
    factors = sum(rank * sum(tensor.shape) for tensor in chosen)
    magnitudes = sum(tensor.out_features for tensor in chosen) if options.dora else 0
    return factors * ITEM_BYTES[compute_type(precision)] + magnitudes * _MAGNITUDE_BYTES


def _unties(shape: ModelShape, extra: Mapping[str, Any]) -> bool:
    """Whether a tied head and its embedding become two matrices, of which one was trained."""
    return (
        is_tied(shape)
        and not extra.get("ensure_weight_tying")
        and any(
            under(matrix, name)
            for name in extra.get("modules_to_save") or ()
            for matrix in tied_matrices(shape)
        )
    )
