"""What was really loaded, compared with what was asked for.

A suite that trusts its libraries measures their bugs: a quantized layer can be there unquantized,
left out silently, or be computed by a kernel that is wrong for its shape. So every quantized layer
is dequantized by the naive definition of its format, from its own codes and constants, and held
against what the library's kernels make of it (`qbench.precisions.layer_probe`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.precisions.first_pass import first_pass
from qbench.precisions.inventory import (
    adapter_modules,
    inventory,
    logical_weights,
    output_head,
    own_name,
)
from qbench.precisions.layer_probe import probe_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.layer_probe import LayerFormat

MOST_NAMED = 3
"""Layers named in a warning; the record's details have them all."""
WRONG_KERNEL = (
    "What is computed with these layers is not this precision: run the cell on another device, or"
    " leave it out"
)
NOT_AS_ASKED = "What is computed with these layers is not this precision: leave the cell out"
NO_MACHINE = "No machine can hold the model in this precision: choose fp32, bf16 or fp16"
WRONG_CHECKPOINT = "Give a whole copy of the checkpoint, one that matches its config.json"
"""What a reader can do about faults of a kind."""
OWN_PRODUCT = "the model's own code multiplies with its weight, past the layer that holds codes"
OWN_CLASSES = (
    "transformers converts plain Linear and Conv1D layers alone, and those of this model are of a"
    " class of its own,"
)


@dataclass(frozen=True)
class Verification:
    """What a precision found in the loaded model."""

    details: dict[str, Any]
    """What was really loaded, as it stands in the record."""
    faults: tuple[str, ...] = ()
    """One sentence a layer that is not what it should be, with its name and shape."""
    warnings: tuple[str, ...] = ()
    """What a reader must know, such as linear layers that stayed unquantized."""
    remedy: str = WRONG_KERNEL
    """What to do about the faults."""
    nonfinite: bool = False
    """Whether layers hold weights that are infinite or not a number."""


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
    held: LayerFormat,
    *,
    state_fault: Callable[[Any], str | None],
    shape_of: Callable[[Any], tuple[int, ...] | None],
    dequantized_tolerance: float,
    forward_tolerance: float,
    details: dict[str, Any],
    is_left_out: Callable[[Any], bool] | None = None,
) -> Verification:
    """Checks every linear layer of a model whose layers should be of `layer_class`.

    `state_fault` says what is wrong with a layer's quantization state, `shape_of` which shape its
    weights have by it, if it has one. The library's weights must equal the naive ones to
    `dequantized_tolerance`, and the layer's own forward a product with the naive weights to
    `forward_tolerance` (both relative, by Frobenius norm). `is_left_out` tells of layers of that
    class which are meant to stay unquantized.
    """

    def is_meant(layer: Any) -> bool:
        return isinstance(layer, layer_class) and not (is_left_out and is_left_out(layer))

    faults: list[tuple[str, str]] = []
    left_out: list[tuple[str, Any]] = []
    quantized_weights = quantized_modules = nonfinite = 0
    tolerances = {"weights": dequantized_tolerance, "output": forward_tolerance}
    worst = dict.fromkeys(tolerances, 0.0)
    layers = linear_layers(model)
    # What changes when a model computes must be seen.
    own_products = first_pass(model, {name: one for name, one in layers if is_meant(one)})
    for name, layer in layers:
        place = f"{name} ({_features(layer)})"
        if name in own_products:
            faults.append((f"{place}: {OWN_PRODUCT}", NO_MACHINE))
        if not is_meant(layer):
            left_out.append((name, layer))
            continue
        shape = shape_of(layer)
        if shape not in (None, (layer.out_features, layer.in_features)):
            found = "×".join(map(str, shape or ()))
            faults.append(
                (f"{place}: the checkpoint holds its weights as {found}", WRONG_CHECKPOINT)
            )
            continue
        fault = state_fault(layer)
        if fault is not None:
            faults.append((f"{place}: {fault}", NOT_AS_ASKED))
            continue
        probed = probe_layer(layer, held, model.dtype)
        quantized_modules += 1
        if probed.nonfinite:
            nonfinite += 1
            faults.append(
                (
                    f"{place}: {probed.nonfinite} of its weights are infinite or not numbers",
                    NOT_AS_ASKED,
                )
            )
            continue
        errors = {"weights": probed.weights_error, "output": probed.output_error}
        worst = {kind: max(worst[kind], errors[kind]) for kind in errors}
        wrong = [
            f"{kind} off by {errors[kind]:.2g} where {tolerance:g} is rounding"
            for kind, tolerance in tolerances.items()
            if not errors[kind] <= tolerance
        ]
        if wrong:
            words = (
                f"{place}: the library's kernel does not compute what the layer's codes say"
                f" (relative error: {', '.join(wrong)})"
            )
            faults.append((words, WRONG_KERNEL))
        else:
            quantized_weights += layer.out_features * layer.in_features
    if not quantized_modules and not faults:
        faults.append(_nothing_quantized(left_out))
    names = [name for name, _ in left_out]
    return Verification(
        details={
            **details,
            "linear_modules": quantized_modules + len(left_out),
            "quantized_modules": quantized_modules,
            "quantized_weights": quantized_weights,
            "quantized_share": quantized_weights / logical_weights(model),
            "left_out": [*names, *head_name(model)],
            "largest_weight_error": worst["weights"],
            "largest_output_error": worst["output"],
            "attention": attention_backend(model),
        },
        faults=tuple(words for words, _ in faults),
        warnings=left_out_warnings([*names, *unquantized_matrices(model)]),
        remedy=faults[0][1] if faults else WRONG_KERNEL,
        nonfinite=nonfinite > 0,
    )


def _nothing_quantized(left_out: list[tuple[str, Any]]) -> tuple[str, str]:
    """The fault of a model without a quantized layer, and what to do about it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    words = "no linear layer of the model was quantized"
    own = {type(layer).__name__ for _, layer in left_out if type(layer) not in (nn.Linear, Conv1D)}
    if not own:
        return words, NOT_AS_ASKED
    return f"{words}: {OWN_CLASSES} {', '.join(sorted(own))}", NO_MACHINE


def first_few(names: Sequence[str]) -> str:
    """The first of the names, for a sentence; ` …` where there are more."""
    return ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")


def too_narrow(model: PreTrainedModel, fits: Callable[[int], bool]) -> dict[str, int]:
    """Widths of the linear layers, by name, that a format's groups of weights do not divide."""
    widths = {name: layer.in_features for name, layer in linear_layers(model)}
    return {name: width for name, width in widths.items() if not fits(width)}


def with_widths(widths: Mapping[str, int]) -> str:
    """The first few of such layers with their widths, for a sentence."""
    return first_few([f"{name} ({width} wide)" for name, width in widths.items()])


def left_out_warnings(left_out: list[str]) -> tuple[str, ...]:
    """What a reader must know of weights that stayed unquantized."""
    if not left_out:
        return ()
    words = (
        f"{len(left_out)} weights beside embeddings and head were left unquantized"
        f" ({first_few(left_out)}); bits per weight and quality are those of the mixture"
    )
    return (words,)


def unquantized_matrices(model: PreTrainedModel) -> list[str]:
    """Matrices outside linear layers, such as the fused experts of a mixture: never quantized."""
    return [
        held.module
        for held in inventory(model)
        if held.kind == "other" and held.tensor.dim() > 1 and held.logical_weights
    ]


def _features(layer: Any) -> str:
    return f"{layer.out_features}×{layer.in_features}"


def head_name(model: PreTrainedModel) -> list[str]:
    """The name of the output head, if there is one."""
    head = output_head(model)
    return [own_name(name) for name, module in model.named_modules() if module is head]
