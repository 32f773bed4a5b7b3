"""What of a mix was really loaded: each layer verified by the member that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from qbench.core.number_types import ITEM_BYTES, torch_type
from qbench.core.spec import ModelShape, TensorShape
from qbench.precisions.inventory import inventory, logical_weights
from qbench.precisions.mixed.layers import by_member, without_effect
from qbench.precisions.mixed.view import View
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import (
    NOT_AS_ASKED,
    Verification,
    attention_backend,
    first_few,
    head_name,
    left_out_warnings,
    linear_layers,
    unquantized_matrices,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from transformers import PreTrainedModel

    from qbench.core.spec import PrecisionRef
    from qbench.precisions.mixed.options import MixedOptions

_OF_ERRORS = ("largest_weight_error", "largest_output_error")


def verify_mix(model: PreTrainedModel, options: MixedOptions) -> Verification:
    """Every layer holds what its member holds it in, and computes what that says."""
    from qbench.precisions import is_quantized, options_of, precisions

    layers = dict(linear_layers(model))
    told: dict[str, dict[str, Any]] = {}
    asked: dict[str, str] = {}
    held_in: dict[str, str] = {}
    faults: list[str] = []
    warnings: list[str] = []
    left: list[str] = []
    remedies: list[str] = []
    nonfinite = False
    for one, names in by_member(layers, options).items():
        own = {name: layers[name] for name in names}
        view = cast("PreTrainedModel", View(model, names))
        found = precisions()[one.name].verify(view, options_of(one))
        stayed = [name for name in found.details.get("left_out", ()) if name in own]
        wrong = _held_otherwise(own, one, stayed if is_quantized(one) else names, options)
        faults += (*found.faults, *wrong)
        remedies += [found.remedy] if found.faults else [NOT_AS_ASKED] if wrong else []
        own_words = left_out_warnings(stayed)
        warnings += [f"{one.label}: {words}" for words in found.warnings if words not in own_words]
        nonfinite = nonfinite or found.nonfinite
        left += stayed
        asked |= dict.fromkeys(names, one.label)
        held_in |= {name: options.dtype if name in stayed else one.label for name in names}
        told[one.label] = {**found.details, "left_out": stayed}
    order = list(layers)
    left.sort(key=order.index)
    ignored = without_effect(layers, options)
    if ignored:
        warnings.append(
            f"{first_few(ignored)}: no layer is held by these patterns, since those before them in"
            " the map match all that they match"
        )
    return Verification(
        details={
            "quant_type": "mixed",
            "dtype": options.dtype,
            "compute_dtype": "; ".join(
                dict.fromkeys(str(one.get("compute_dtype", one["dtype"])) for one in told.values())
            ),
            "linear_modules": len(layers),
            "quantized_modules": sum(one["quantized_modules"] for one in told.values()),
            **_shares(model, asked, held_in, told),
            "left_out": [*left, *head_name(model)],
            **{
                key: max((one[key] for one in told.values() if key in one), default=0.0)
                for key in _OF_ERRORS
            },
            "attention": attention_backend(model),
            "held_in": {name: held_in[name] for name in order},
        },
        faults=tuple(faults),
        warnings=(*warnings, *left_out_warnings([*left, *unquantized_matrices(model)])),
        remedy=remedies[0] if remedies else NOT_AS_ASKED,
        nonfinite=nonfinite,
    )


def _held_otherwise(
    own: Mapping[str, Any], one: PrecisionRef, left: Collection[str], options: MixedOptions
) -> list[str]:
    """Faults of the layers that are not in codes: held in those of another format, or left so."""
    faults = []
    for name in left:
        layer = own[name]
        held = _codes_of(layer, options.dtype)
        if held is not None:
            faults.append(f"{name} ({_size(layer)}): holds {held} where {one.label} was asked for")
        elif one.label != options.dtype and _is_plain(layer) and _would_hold(layer, one):
            faults.append(
                f"{name} ({_size(layer)}): stayed in {options.dtype} where {one.label} was asked"
                " for"
            )
    return faults


def _codes_of(layer: Any, dtype: str) -> str | None:
    """What a layer holds other than plain numbers of a type; None where it holds these."""
    from torch import nn

    weight = getattr(layer, "weight", None)
    if type(weight) is nn.Parameter and weight.dtype == torch_type(dtype) and weight.dim() == 2:
        return None
    kind = type(layer).__name__ if weight is None else type(weight).__name__
    return f"{kind} of {getattr(weight, 'dtype', 'no type')} in a {type(layer).__name__}"


def _is_plain(layer: Any) -> bool:
    """Whether libraries replace such a layer: one of the model's own class stays as it is."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return type(layer) in (nn.Linear, Conv1D)


def _would_hold(layer: Any, one: PrecisionRef) -> bool:
    """Whether a layer of its size falls into the member's groups, by the arithmetic of bytes."""
    from qbench.precisions import options_of, precisions
    from qbench.precisions.computing import rest_type

    tensor = TensorShape(name="layer.weight", shape=_features(layer), role="linear")
    shape = ModelShape(tensors=(tensor,), origin="meta")
    held = precisions()[one.name].storage(shape, options_of(one))
    plain = static_bytes(shape, ITEM_BYTES[rest_type(one)], linear=None)
    return held != plain


def _features(layer: Any) -> tuple[int, int]:
    """Outputs and inputs, of a Conv1D too."""
    if hasattr(layer, "nf"):
        return int(layer.nf), int(layer.weight.shape[0])
    return int(layer.out_features), int(layer.in_features)


def _size(layer: Any) -> str:
    return "×".join(map(str, _features(layer)))


def _shares(
    model: PreTrainedModel,
    asked: Mapping[str, str],
    held_in: Mapping[str, str],
    told: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """Weights in codes, and of each format its layers, weights, bytes and bits a weight."""
    weights: dict[str, int] = dict.fromkeys(held_in, 0)
    sizes: dict[str, int] = dict.fromkeys(held_in, 0)
    for held in inventory(model):
        if held.module in weights and held.kind in {"linear", "quantization_state"}:
            weights[held.module] += held.logical_weights
            sizes[held.module] += held.tensor.numel() * held.tensor.element_size()
    every, own = logical_weights(model), sum(weights.values())
    coded = sum(one.get("quantized_weights", 0) for one in told.values())
    members = {}
    for label in dict.fromkeys([*told, *held_in.values()]):
        names = [name for name, member in held_in.items() if member == label]
        count, size = sum(weights[n] for n in names), sum(sizes[n] for n in names)
        members[label] = {
            "layers": len(names),
            "weights": count,
            "share": count / own if own else None,
            "bytes": size,
            "bits_per_weight": 8 * size / count if count else None,
            "left_out": told.get(label, {}).get("left_out", []),
            "loaded": told.get(label),
        }
    nominal = {
        label: one["nominal_linear_bytes"]
        for label, one in told.items()
        if one.get("nominal_linear_bytes") is not None
    }
    rest = sum(size for name, size in sizes.items() if asked[name] not in nominal)
    return {
        "quantized_weights": coded,
        "quantized_share": coded / every,
        "nominal_linear_bytes": sum(nominal.values()) + rest if nominal else None,
        "members": members,
    }
