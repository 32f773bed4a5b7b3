"""Static bytes by arithmetic from shapes: what a model takes before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.spec import ModelShape, StaticBytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.core.spec import TensorShape

_FIXED_BYTES = {"float32": 4, "int64": 8, "bool": 1, "bfloat16": 2, "float16": 2}
_KIND = {
    "linear": "linear",
    "embedding": "embeddings_and_head",
    "head": "embeddings_and_head",
    "norm": "norms",
    "bias": "biases",
    "buffer": "buffers",
    "other": "other",
}


def static_bytes(
    shape: ModelShape,
    item_bytes: int,
    linear: Callable[[TensorShape], tuple[int, int]] | None,
    bias_bytes: int | None = None,
) -> StaticBytes:
    """Sums the bytes of every tensor by kind.

    `item_bytes` is the size of an element of what is not quantized. `linear` gives, for the weight
    of a linear layer, the bytes of its codes and of its quantization state; None leaves the linear
    layers unquantized, as those of a model's own class always are. `bias_bytes` is the size of an
    element of the quantized layers' biases, where it differs from `item_bytes`.
    """
    total = dict.fromkeys(StaticBytes.model_fields, 0)
    for tensor in shape.tensors:
        converted = tensor.layer != "own class"
        if tensor.role == "linear" and linear is not None and converted:
            codes, state = linear(tensor)
            total["linear"] += codes
            total["quantization_state"] += state
        elif tensor.role == "bias" and bias_bytes is not None and converted:
            total["biases"] += tensor.numel * bias_bytes
        else:
            total[_KIND[tensor.role]] += fixed_bytes(tensor, item_bytes)
    return StaticBytes(**total)


def fixed_bytes(tensor: TensorShape, item_bytes: int) -> int:
    """Bytes of a tensor in its own type, or with `item_bytes` an element if it has none."""
    return tensor.numel * (_FIXED_BYTES[tensor.dtype] if tensor.dtype else item_bytes)
