"""What a model does to its quantized layers when it computes.

Some change in the first forward pass: RWKV rescales its layers, and what bitsandbytes quantized
comes out in another format. So a model computes once before it is verified, and what was verified
is looked at again after each measurement.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from qbench.precisions.inventory import inventory
from qbench.sources.shapes.own_products import watching_products

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedModel

TOKENS = 3
"""Tokens that a first pass reads."""
SAMPLED = 2**16
"""Elements of a tensor that are looked at again, evenly spaced; all of most constants."""

Constants = dict[str, frozenset[tuple[Any, ...]]]
"""By layer: type, elements and sum of bytes of each tensor of codes or constants."""


def first_pass(model: PreTrainedModel, layers: Mapping[str, Any]) -> set[str]:
    """Has the model compute once; the names of the layers whose weights its own code multiplies.

    `layers` are those that hold codes, by name. A pass that fails is for the measurements to tell.
    """
    import torch

    ids = torch.zeros(1, TOKENS, dtype=torch.long, device=model.device)
    with torch.inference_mode(), watching_products(layers) as found:
        try:
            model(input_ids=ids)
        except Exception:  # whatever a model's own code raises
            logging.getLogger(__name__).exception("the model's first forward pass failed")
    return found


def constants_of(model: PreTrainedModel) -> Constants:
    """What is looked at again of every layer that holds codes: a sample, cheap for any model."""
    import torch

    held = list(inventory(model))
    quantized = {one.module for one in held if one.kind == "quantization_state"}
    chosen = [
        one
        for one in held
        if one.module in quantized and one.kind in ("linear", "quantization_state")
    ]
    with torch.inference_mode():
        sums = [_byte_sum(one.tensor) for one in chosen]
        on_each = {device: torch.stack([s for s in sums if s.device == device]).tolist()
                   for device in {s.device for s in sums}}  # fmt: skip
    found: dict[str, set[tuple[Any, ...]]] = {}
    for one, total in zip(chosen, sums, strict=True):
        value = on_each[total.device].pop(0)
        found.setdefault(one.module, set()).add((str(one.tensor.dtype), one.tensor.numel(), value))
    return {module: frozenset(values) for module, values in found.items()}


def changed_layers(before: Constants, model: PreTrainedModel) -> list[str]:
    """Names of the layers that hold other codes or constants than before, or none any longer."""
    now = constants_of(model) if before else {}
    return [name for name, constants in before.items() if now.get(name) != constants]


def _byte_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Of a sample of the elements, as an integer of 64 bits, still on their device."""
    import torch

    step = max(1, tensor.numel() // SAMPLED)
    sample = tensor.detach().reshape(-1)[::step].contiguous()
    return sample.view(torch.uint8).sum(dtype=torch.int64)
