"""Peak bytes of a training step by kind, from shapes alone.

Weights and quantization state follow from the precision, adapters from the targets, optimizer state
from the optimizer, activations from `qbench.predict.activations`. All are exact but for what
kernels take for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from qbench.core.number_types import ITEM_BYTES
from qbench.finetune import methods, training_options
from qbench.finetune.full import FullOptions
from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.targets import target_names, targeted
from qbench.precisions import products_of
from qbench.predict.activations import activation_bytes
from qbench.predict.shapes import (
    TRAINED,
    UNKNOWN_LAYERS,
    TrainingSetup,
    lacks_kernel,
    unpredicted,
)
from qbench.predict.static import stored_bytes

if TYPE_CHECKING:
    from qbench.core.spec import ModelShape, PrecisionRef, TuningRef
    from qbench.finetune.options import TrainingOptions
    from qbench.predict.shapes import DecoderShape

_FP32 = 4
_SMALL = 4096
"""Elements below which bitsandbytes keeps a tensor's states in fp32."""
_BLOCK = 256
"""Elements that share one maximum in an 8-bit state. Dettmers et al. 2021, arXiv 2110.02861, has
2048; bitsandbytes' is 256."""
_CODE_TABLES = 2 * 256 * _FP32
"""One code table a moment, shared by all tensors."""
_PAGED_FROM = 100_000
"""Elements from which bitsandbytes puts a paged optimizer's states into pages."""


@dataclass(frozen=True)
class TrainingBytes:
    """The peak of a step by kind, and the part of it that can leave the device."""

    base_weights: int
    quantization_state: int
    adapters: int
    gradients: int
    optimizer_state: int
    activations: int
    """What is taken at the highest moment beside the others."""
    paged: int = 0
    """Of the optimizer's state what may lie in the machine's memory when the GPU's is full."""

    @property
    def total(self) -> int:
        """The peak, pages included."""
        return (
            self.base_weights
            + self.quantization_state
            + self.adapters
            + self.gradients
            + self.optimizer_state
            + self.activations
        )

    @property
    def resident(self) -> int:
        """What must fit on the device: the peak without what can be paged out."""
        return self.total - self.paged


def predict_training(
    shape: ModelShape,
    decoder: DecoderShape,
    method: str,
    precision: PrecisionRef,
    options: TrainingOptions,
    *,
    tokens: int,
    padded: bool = False,
    device: str = "cuda",
    flash: bool = True,
) -> tuple[TrainingBytes | None, str | None]:
    """The peak of a step, or None and the reason why it is not known.

    `options` are all of the method's, `tokens` the length of a sequence; `padded` tells whether
    some sequence of a batch is, and `flash` whether a GPU has a flash attention.
    """
    chosen = methods().get(method)
    if chosen is None or method not in {"full", "lora"}:
        return None, f"the memory of method {method} is not known"
    held = chosen.load_precision(precision, options)
    products = products_of(held)
    if products is None or products.kind not in TRAINED:
        return None, UNKNOWN_LAYERS
    adapter = options if isinstance(options, LoraOptions) else None
    if adapter is not None and not adapter.is_plain:
        return None, "the memory of dora, of trained biases and of extra options is not known"
    trained, reason = _trained_tensors(shape, decoder.model_type, options)
    if reason is not None:
        return None, reason
    setup = TrainingSetup(
        batch=options.batch,
        tokens=tokens,
        method="full" if method == "full" else "lora",
        products=products,
        compute=options.compute,
        targets=frozenset()
        if adapter is None
        else target_names(shape, decoder.model_type, adapter.target),
        rank=0 if adapter is None else adapter.rank,
        adapter_dropout=adapter is not None and adapter.dropout > 0,
        checkpointing=options.checkpointing,
        padded=padded,
        accumulate=options.accumulate,
        optimizer=options.optimizer,
        device="cuda" if device == "cuda" else "cpu",
    )
    setup = replace(setup, by_definition=lacks_kernel(decoder, setup, flash=flash))
    reason = unpredicted(decoder, setup)
    if reason is not None:
        return None, reason
    static = stored_bytes(shape, held)
    item = setup.rest_bytes if method == "full" else _FP32
    states, paged = optimizer_bytes(trained, item, options.optimizer)
    return TrainingBytes(
        base_weights=static.total - static.quantization_state,
        quantization_state=static.quantization_state,
        adapters=0 if method == "full" else item * sum(trained),
        gradients=item * sum(trained),
        optimizer_state=states,
        activations=_activations(decoder, setup),
        paged=paged if device == "cuda" else 0,
    ), None


@cache
def _activations(decoder: DecoderShape, setup: TrainingSetup) -> int:
    """Cells that differ in their seed, or in a precision of the same types, ask for the same."""
    return activation_bytes(decoder, setup)


def optimizer_bytes(trained: list[int], item_bytes: int, optimizer: str) -> tuple[int, int]:
    """Bytes of an AdamW's state, and of those the ones in pages.

    `trained` are the elements of each trained tensor, of `item_bytes` each. torch keeps both
    moments in the weights' type and a step count a tensor; bitsandbytes in fp32, or in 8 bits with
    an fp32 maximum a block and moment.
    """
    if optimizer == "adamw":
        return sum(2 * item_bytes * count + _FP32 for count in trained), 0
    eight_bit = optimizer.endswith("8bit")
    total = paged = 0
    for count in trained:
        compressed = eight_bit and count >= _SMALL
        moments = 2 * count * (1 if compressed else _FP32)
        total += moments + (2 * _FP32 * -(-count // _BLOCK) if compressed else 0)
        if optimizer.startswith("paged") and count >= _PAGED_FROM:
            paged += moments
    if eight_bit and any(count >= _SMALL for count in trained):
        total += _CODE_TABLES
    return total, paged


def trained_bytes(shape: ModelShape, architecture: str, tuning: TuningRef) -> int | None:
    """Bytes of what a training leaves on disk, headers apart; None where it is not known.

    An adapter is fp32; all weights are in their master weights' type.
    """
    if tuning.method == "qat":
        return _FP32 * shape.weights
    options = training_options(tuning)
    if not isinstance(options, FullOptions | LoraOptions) or getattr(options, "dora", False):
        return None
    trained, reason = _trained_tensors(shape, architecture, options)
    if reason is not None:
        return None
    item = ITEM_BYTES[options.master_weights] if isinstance(options, FullOptions) else _FP32
    return item * sum(trained)


def _trained_tensors(
    shape: ModelShape, architecture: str, options: TrainingOptions
) -> tuple[list[int], str | None]:
    """Elements of each tensor that is trained: those of an adapter, or all."""
    if not isinstance(options, LoraOptions):
        return [tensor.numel for tensor in shape.tensors if tensor.role != "buffer"], None
    chosen = targeted(shape, architecture, options.target)
    if chosen is None:
        return [], f"the layers that target {options.target} means are not known from the shapes"
    rank = options.rank
    return [rank * size for tensor in chosen for size in tensor.shape], None
