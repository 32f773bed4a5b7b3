"""What was really loaded, held against what was asked for.

A suite that trusts its libraries measures their bugs: a quantized layer can be there unquantized,
left out silently, or be computed by a kernel that is wrong for its shape. So every quantized layer
is dequantized by the naive definition of its format, from its own codes and constants, and held
against what the library's kernels make of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.precisions.inventory import (
    adapter_modules,
    inventory,
    logical_weights,
    output_head,
    own_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedModel

MOST_NAMED = 3
"""Layers named in a warning; the record's details have them all."""
OUTLIER = 10.0
"""An activation above LLM.int8's threshold."""
PROBE_ROWS = (1, 3)
"""Rows of the inputs a layer is tried with: one row takes another kernel than several."""


@dataclass(frozen=True)
class Verification:
    """What a precision found in the loaded model."""

    details: dict[str, Any]
    """What was really loaded, as it stands in the record."""
    faults: tuple[str, ...] = ()
    """One sentence a layer that is not what it should be, with its name and shape."""
    warnings: tuple[str, ...] = ()
    """What a reader must know, such as linear layers that stayed unquantized."""


def linear_layers(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """All linear and Conv1D layers but the output head, by their names in the checkpoint.

    Where an adapter is attached these are the layers inside it; its own factors are none of them.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = output_head(model)
    adapters = adapter_modules(model)
    return [
        (own_name(name), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name not in adapters
    ]


def attention_backend(model: PreTrainedModel) -> str | None:
    """The attention kernel that the model uses, such as `sdpa`."""
    backend = getattr(model.config, "_attn_implementation", None)
    return str(backend) if backend else None


def verify_quantized(
    model: PreTrainedModel,
    layer_class: type[torch.nn.Module],
    *,
    state_fault: Callable[[Any], str | None],
    naive: Callable[[Any], torch.Tensor],
    library: Callable[[Any], torch.Tensor],
    dequantized_tolerance: float,
    forward_tolerance: float,
    details: dict[str, Any],
    is_left_out: Callable[[Any], bool] | None = None,
    naive_output: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    library_output: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
) -> Verification:
    """Checks every linear layer of a model whose layers should be of `layer_class`.

    `state_fault` says what is wrong with a layer's quantization state; `naive` and `library`
    dequantize a layer to (out, in), by definition and by the library. The library's weights must
    equal the naive ones to `dequantized_tolerance`, and the layer's own forward a matrix product
    with the naive weights to `forward_tolerance` (both relative, by Frobenius norm).

    `is_left_out` tells of layers of that class which are meant to stay unquantized. For formats
    that round inputs too, `naive_output` (layer, naive weights, inputs) is the product by
    definition, without the bias, and `library_output` the layer's own.
    """
    import torch

    faults: list[str] = []
    left_out: list[str] = []
    quantized_weights = 0
    quantized_modules = 0
    tolerances = {"weights": dequantized_tolerance, "output": forward_tolerance}
    worst = dict.fromkeys(tolerances, 0.0)
    for name, layer in linear_layers(model):
        place = f"{name} ({_features(layer)})"
        if not isinstance(layer, layer_class) or (is_left_out is not None and is_left_out(layer)):
            left_out.append(name)
            continue
        fault = state_fault(layer)
        if fault is not None:
            faults.append(f"{place}: {fault}")
            continue
        with torch.inference_mode():
            weight = naive(layer)
            errors = {
                "weights": relative_error(library(layer), weight),
                "output": _forward_error(
                    layer, weight, model.dtype, naive_output or _product, library_output or _call
                ),
            }
        worst = {kind: max(worst[kind], errors[kind]) for kind in errors}
        wrong = [
            f"{kind} off by {errors[kind]:.2g} where {tolerance:g} is rounding"
            for kind, tolerance in tolerances.items()
            if not errors[kind] <= tolerance
        ]
        if wrong:
            faults.append(
                f"{place}: the library's kernel does not compute what the layer's codes say"
                f" (relative error: {', '.join(wrong)})"
            )
        else:
            quantized_weights += weight.numel()
        quantized_modules += 1
    if not quantized_modules and not faults:
        faults.append("no linear layer of the model was quantized")
    return Verification(
        details={
            **details,
            "linear_modules": quantized_modules + len(left_out),
            "quantized_modules": quantized_modules,
            "quantized_weights": quantized_weights,
            "quantized_share": quantized_weights / logical_weights(model),
            "left_out": [*left_out, *_head_name(model)],
            "largest_weight_error": worst["weights"],
            "largest_output_error": worst["output"],
            "attention": attention_backend(model),
        },
        faults=tuple(faults),
        warnings=_left_out_warnings([*left_out, *_unquantized_matrices(model)]),
    )


def _left_out_warnings(left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    named = ", ".join(left_out[:MOST_NAMED]) + (" …" if len(left_out) > MOST_NAMED else "")
    words = (
        f"{len(left_out)} weights beside embeddings and head were left unquantized ({named});"
        " bits per weight and quality are those of the mixture"
    )
    return (words,)


def _unquantized_matrices(model: PreTrainedModel) -> list[str]:
    """Matrices outside linear layers, such as the fused experts of a mixture: never quantized."""
    return [
        held.module
        for held in inventory(model)
        if held.kind == "other" and held.tensor.dim() > 1 and held.logical_weights
    ]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of `expected`; 0 when both are zero."""
    difference = float((found.float() - expected.float()).norm())
    scale = float(expected.float().norm())
    if scale:
        return difference / scale
    return 0.0 if difference == 0.0 else float("inf")


def _product(_layer: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return inputs.float() @ weight.T


def _call(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = layer(inputs)
    return output


def _forward_error(
    layer: Any,
    weight: torch.Tensor,
    activation_dtype: torch.dtype,
    naive_output: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor],
    library_output: Callable[[Any, torch.Tensor], torch.Tensor],
) -> float:
    """The larger relative error of the layer's outputs for the two kinds of input."""
    import torch

    generator = torch.Generator().manual_seed(0)
    errors = []
    for rows in PROBE_ROWS:
        inputs = torch.randn(rows, weight.shape[1], generator=generator)
        if rows > 1:
            inputs[:, 0] = OUTLIER  # LLM.int8 computes such a column in floating point
        inputs = inputs.to(weight.device, activation_dtype)
        found = library_output(layer, inputs).float()
        expected = naive_output(layer, weight, inputs)
        if layer.bias is not None:
            expected = expected + layer.bias.float()
        errors.append(relative_error(found, expected))
    return max(errors)


def _features(layer: Any) -> str:
    return f"{layer.out_features}×{layer.in_features}"


def _head_name(model: PreTrainedModel) -> list[str]:
    head = output_head(model)
    return [own_name(name) for name, module in model.named_modules() if module is head]
