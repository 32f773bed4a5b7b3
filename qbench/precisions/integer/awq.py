"""AWQ: weights that meet large inputs are made larger before they are rounded, and so err less.

Lin et al. 2023, arXiv 2306.00978. The inputs are multiplied by the reciprocals, which stay with the
layer's codes. Layers that read the same inputs have the same factors, as they have where these are
folded into the layer before. torchao 0.18 has AWQ for other tensors than its unpacked codes, and
keeps all inputs; here their products suffice, which tell the error of the outputs exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.grid import (
    by_group,
    library_nearest,
    output_error,
    round_to_nearest,
    to_weight,
    unpacked_codes,
)
from qbench.precisions.integer.moments import Moments
from qbench.precisions.integer.scaled_codes import with_factors
from qbench.precisions.integer.walk import Walk

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.integer.moments import Sums
    from qbench.precisions.integer.options import IntegerOptions

EXPONENTS = 20
"""Exponents of the inputs' mean sizes that are tried: 0, 1/20 … 19/20, as the authors do."""
LIMITS, LIMIT_STEP = 10, 1 / 20
"""Limits that are tried for the weights of a group, in shares of their largest: 1, 0.95 … 0.55."""
_SMALLEST = 1e-4
"""Of a factor before all are brought to a mean of about 1."""
UNCLIPPED = ("q_", "k_", "query", "key", "Wqkv")
"""Parts of the names of layers that the authors do not clip: their outputs meet in a product."""


def quantize_by_awq(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    options: IntegerOptions,
    dtype: torch.dtype,
) -> dict[str, dict[str, float]]:
    """Quantizes the layers in place; by layer its exponent and the error of its outputs.

    The error is relative by norm, on the calibration's inputs, beside that of nearest levels.
    Raises `ModelError` for a layer that no window reaches.
    """
    import torch

    found: dict[str, dict[str, float]] = {}
    for block in Walk(model, layers, windows).blocks():
        seen = Moments()
        block.run(seen.add)
        for name in block.layers:
            seen.of(name)
        for names in seen.sharing():
            sums = seen.of(names[0])
            weights = {name: block.layers[name].weight.data.float() for name in names}
            exponent, factors = choose_factors(list(weights.values()), sums, options, dtype)
            for name, weight in weights.items():
                scaled = weight / factors
                products = sums.products * factors * factors[:, None]
                is_clipped = not any(part in name.rpartition(".")[2] for part in UNCLIPPED)
                if options.clipping and is_clipped:
                    scaled = clip(scaled, products, options, dtype)
                codes = unpacked_codes(*round_to_nearest(scaled, options, dtype), options, dtype)
                held = codes.dequantize().float() * factors
                found[name] = {
                    "exponent": exponent,
                    "output_error": output_error(weight, held, sums.products),
                    "output_error_nearest": output_error(
                        weight, library_nearest(weight, options, dtype), sums.products
                    ),
                }
                made = with_factors(codes, factors.to(dtype))
                block.layers[name].weight = torch.nn.Parameter(made, requires_grad=False)
    return found


def choose_factors(
    weights: list[torch.Tensor], sums: Sums, options: IntegerOptions, dtype: torch.dtype
) -> tuple[float, torch.Tensor]:
    """The exponent, and the factors of the inputs, (in,) as the type keeps them, in fp32.

    They make the smallest squared error of the outputs of all the weights, each (out, in) in fp32.
    """
    sizes = sums.sizes / sums.count

    def tried(exponent: float) -> tuple[float, float, torch.Tensor]:
        larger = sizes.pow(exponent).clamp(min=_SMALLEST)
        larger = larger / (larger.max() * larger.min()).sqrt()
        factors = (1 / larger).to(dtype).float()
        held = (
            to_weight(*round_to_nearest(weight / factors, options, dtype)) * factors
            for weight in weights
        )
        errors = (
            _squared_error(one - weight, sums.products)
            for one, weight in zip(held, weights, strict=True)
        )
        return sum(errors), exponent, factors

    choices = (tried(step / EXPONENTS) for step in range(EXPONENTS))
    _, exponent, factors = min(choices, key=lambda one: one[0])
    return exponent, factors


def clip(
    weight: torch.Tensor, products: torch.Tensor, options: IntegerOptions, dtype: torch.dtype
) -> torch.Tensor:
    """The weight, (out, in), each group clipped to the limit whose rounding errs least by itself.

    As it is where the whole layer would err more for it.
    """
    import torch

    group = options.group or weight.shape[1]
    grouped = by_group(weight, group)
    groups = range(grouped.shape[1])
    parts = torch.stack(
        [products[at * group : (at + 1) * group, at * group : (at + 1) * group] for at in groups]
    )
    largest = grouped.abs().amax(2, keepdim=True)
    least = torch.full_like(largest[..., 0], torch.inf)
    chosen = grouped
    for step in range(LIMITS):
        limit = largest * (1 - step * LIMIT_STEP)
        clipped = grouped.clamp(-limit, limit)
        held = to_weight(*round_to_nearest(clipped.reshape(weight.shape), options, dtype))
        off = by_group(held, group) - grouped
        error = (torch.einsum("rgi,gij->rgj", off, parts) * off).sum(2)
        chosen = torch.where((error < least)[..., None], clipped, chosen)
        least = torch.minimum(error, least)
    made = chosen.reshape(weight.shape)
    errors = [
        _squared_error(to_weight(*round_to_nearest(one, options, dtype)) - weight, products)
        for one in (made, weight)
    ]
    return made if errors[0] < errors[1] else weight


def _squared_error(difference: torch.Tensor, products: torch.Tensor) -> float:
    return float(((difference @ products) * difference).sum())
