"""Layers that hold blocks compared with the definition of their types, and with the package's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.precisions.gguf.convert import matrices
from qbench.precisions.gguf.layers import (
    block_fault,
    holds_blocks,
    linear_class,
    own_weight,
    package_weight,
)
from qbench.precisions.inventory import logical_weights
from qbench.precisions.layer_probe import LayerFormat, relative_error
from qbench.precisions.layer_weights import held_weight
from qbench.precisions.verification import NOT_AS_ASKED, Verification, verify_quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.gguf.convert import Matrix

_WEIGHT_TOLERANCE = 1e-6
"""The package and qbench make the same fp32 numbers of the same blocks."""
_OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Rounding of weights, sums and outputs, relative to the output's norm."""
_PROBED_ROWS = 4096
"""Of an embedding or a head, which may have a quarter of a million."""


def verify_blocks(
    model: PreTrainedModel, kinds: Mapping[str, str | None], dtype: str, details: dict[str, Any]
) -> Verification:
    """Checks every matrix of a model against the type that it should have by its weight's name."""
    found = verify_quantized(
        model,
        linear_class(),
        LayerFormat(naive=own_weight, library=package_weight),
        state_fault=block_fault,
        shape_of=lambda _: None,
        dequantized_tolerance=_WEIGHT_TOLERANCE,
        forward_tolerance=_OUTPUT_TOLERANCE.get(dtype, 1e-2),
        details={**details, "dtype": dtype, "compute_dtype": dtype},
    )
    held = matrices(model)
    tables = [one for one in held if one.shape.role != "linear"]
    in_blocks = [one for one in tables if holds_blocks(one.layer)]
    faults = [fault for one in held if (fault := _other_type(one, kinds)) is not None]
    faults += [fault for one in in_blocks if (fault := _table_fault(one)) is not None]
    weights = found.details["quantized_weights"] + sum(one.shape.numel for one in in_blocks)
    left_out = [
        name for name in found.details["left_out"] if not holds_blocks(model.get_submodule(name))
    ]
    return replace(
        found,
        details={
            **found.details,
            "quantized_weights": weights,
            "quantized_share": weights / logical_weights(model),
            "left_out": left_out,
            "blocks": dict(Counter(one.layer.kind for one in held if holds_blocks(one.layer))),
            "tables": {one.name: one.layer.kind for one in in_blocks},
        },
        faults=(*found.faults, *faults),
        remedy=found.remedy if found.faults or not faults else NOT_AS_ASKED,
    )


def layer_weights(layer: Any) -> torch.Tensor:
    """The weights that a layer computes with, (out, in), in blocks or not."""
    return own_weight(layer) if holds_blocks(layer) else held_weight(layer)


def _other_type(one: Matrix, kinds: Mapping[str, str | None]) -> str | None:
    expected = kinds.get(one.shape.name)
    found = one.layer.kind if holds_blocks(one.layer) else None
    if expected == found:
        return None
    return f"{one.name}: holds {found or 'no blocks'} where {expected or 'none'} were expected"


def _table_fault(one: Matrix) -> str | None:
    """What is wrong with an embedding or a head: its bytes, or what is made of them."""
    fault = block_fault(one.layer)
    if fault is not None:
        return f"{one.name}: {fault}"
    for start in range(0, len(one.layer.weight), _PROBED_ROWS):
        rows = slice(start, start + _PROBED_ROWS)
        own = own_weight(one.layer, rows)
        if not own.isfinite().all():
            return f"{one.name}: some of its weights are infinite or not numbers"
        error = relative_error(package_weight(one.layer, rows), own)
        if error > _WEIGHT_TOLERANCE:
            return (
                f"{one.name}: the package gguf does not make the weights of its blocks that their"
                f" definition says (relative error {error:.2g})"
            )
    return None
