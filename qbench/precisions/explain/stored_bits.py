"""Bits a weight as they really are in memory, tables and all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.spec import ModelShape, TensorShape
from qbench.precisions import precisions

if TYPE_CHECKING:
    from qbench.core.spec import Frozen
    from qbench.precisions.explain.weights import Weight


def stored_bits(name: str, weight: Weight, options: Frozen) -> float:
    """Bits a weight of this tensor in a precision, by the arithmetic of `qbench plan`."""
    shape = (weight.values.shape[0], weight.values.shape[1])
    tensor = TensorShape(name=weight.name, shape=shape, role="linear")
    alone = ModelShape(tensors=(tensor,), origin="header")
    stored = precisions()[name].storage(alone, options)
    return 8 * stored.total / tensor.numel
