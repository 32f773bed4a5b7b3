"""What of an integer format was really loaded: every layer's codes, scales and products."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.precisions.integer import layers as integer_layers
from qbench.precisions.integer.layers import is_quantized
from qbench.precisions.integer.misfit import fitting_group
from qbench.precisions.integer.options import (
    KERNEL_MULTIPLE,
    STORED_BITS,
    IntegerOptions,
    group_fits,
    scale_count,
)
from qbench.precisions.integer.packed import is_packed, packed_storage, why_simulated
from qbench.precisions.inventory import state_tensors
from qbench.precisions.layer_probe import OUTPUT_TOLERANCE, WEIGHT_TOLERANCE, LayerFormat
from qbench.precisions.products import MOST_ROWS_IN_FP32
from qbench.precisions.verification import (
    Verification,
    linear_layers,
    too_narrow,
    verify_quantized,
    with_widths,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROUNDED_INPUTS_TOLERANCE = 0.01
"""The same where inputs are rounded to 8 bits: one near the middle of two levels may go either
way, since the library computes the scale in the inputs' own type."""


def verify_integers(model: PreTrainedModel, options: IntegerOptions) -> Verification:
    """Every layer that a group divides holds codes in range, and computes what they say."""
    from torch import nn

    def state_fault(layer: Any) -> str | None:
        return _state_fault(layer, options)

    found = verify_quantized(
        model,
        nn.Linear,
        LayerFormat(
            naive=integer_layers.naive_codes_weight,
            library=integer_layers.library_codes_weight,
            naive_output=integer_layers.naive_output,
            library_output=integer_layers.library_output,
        ),
        is_left_out=lambda layer: (
            not integer_layers.is_quantized(layer)
            and not (type(layer) is nn.Linear and group_fits(options, layer.in_features))
        ),
        state_fault=state_fault,
        shape_of=lambda layer: tuple(layer.weight.shape),
        dequantized_tolerance=WEIGHT_TOLERANCE[options.dtype],
        forward_tolerance=OUTPUT_TOLERANCE[options.dtype]
        if options.activations == "none"
        else _ROUNDED_INPUTS_TOLERANCE + OUTPUT_TOLERANCE[options.dtype],
        details={
            "quant_type": f"int{options.bits}",
            **{
                name: getattr(options, name)
                for name in (
                    *("mapping", "granularity", "group", "scales", "activations", "weights"),
                )
            },
            **_kernel(options),
            "dtype": options.dtype,
            "compute_dtype": _computed_in(model, options),
            "code_bits_nominal": options.bits,
            "code_bits_stored": options.bits if options.kernel == "packed" else STORED_BITS,
            "nominal_linear_bytes": _nominal_bytes(model, options),
            "calibration": getattr(model, "calibration", None),
        },
    )
    return replace(found, warnings=(*_group_warnings(model, options), *found.warnings))


def _kernel(options: IntegerOptions) -> dict[str, str]:
    """What multiplies, and why it is not the packed kernel; nothing of codes of 8 bits."""
    if options.bits == STORED_BITS:
        return {}
    if options.kernel == "packed":
        return {"kernel": "packed (torchao, tinygemm)"}
    why = why_simulated(options) or "the packed kernel needs CUDA and compute capability 8.0"
    return {"kernel": f"simulated: {why}"}


def _state_fault(layer: Any, options: IntegerOptions) -> str | None:
    if not is_quantized(layer):
        return f"holds {layer.weight.dtype} where codes of torchao were expected"
    weight = layer.weight
    if (options.kernel == "packed") is not is_packed(weight):
        return f"holds {type(weight).__name__}, though the kernel is {options.kernel}"
    if is_packed(weight):
        return _packed_fault(layer, options)
    if not hasattr(weight, "zero_point"):
        return f"holds a {type(weight).__name__} where integers were expected"
    multiplies = type(weight).__name__ == "Int8Tensor"
    width = str(getattr(weight, "target_dtype", "torch.int8")).removeprefix("torch.int")
    rounds = any(
        getattr(weight, name, None) is not None
        for name in ("act_quant_kwargs", "activation_quantization")
    )
    asked = (options.uses_int8_kernel, str(options.bits), options.activations != "none")
    if (multiplies, width, rounds) != asked:
        return (
            f"holds a {type(weight).__name__} of {width} bits, its inputs"
            f" {'rounded' if rounds else 'as they are'}, where int{options.bits} with"
            f" activations: {options.activations} was asked for"
        )
    low, high = int(weight.qdata.min()), int(weight.qdata.max())
    limit = 2 ** (options.bits - 1)
    count = scale_count(options, layer.out_features, layer.in_features)
    wrong = {
        f"holds codes from {low} to {high}, beyond those of {options.bits} bits": low < -limit
        or high >= limit,
        f"holds {weight.scale.numel()} scales where {count} were expected": weight.scale.numel()
        != count,
        "holds zero points other than 0, though it is symmetric": options.mapping == "symmetric"
        and bool(weight.zero_point.any()),
        "holds no calibrated scale for its inputs": options.activations == "static"
        and weight.act_quant_scale is None,
        f"holds no factors of {options.weights}": options.weights in {"awq", "smoothquant"}
        and getattr(weight, "act_pre_scale", None) is None,
    }
    return next((words for words, is_so in wrong.items() if is_so), None)


def _packed_fault(layer: Any, options: IntegerOptions) -> str | None:
    if options.group is None:
        return "holds packed codes without groups"
    expected = packed_storage(layer.out_features, layer.in_features, options.group)
    held = (layer.weight.qdata, layer.weight.scale_and_zero)
    found = tuple(tensor.numel() * tensor.element_size() for tensor in held)
    if found != expected:
        return f"holds {found} bytes of codes and constants where {expected} were expected"
    if options.mapping == "symmetric" and bool(layer.weight.scale_and_zero[..., 1].any()):
        return "holds zeros other than 0, though it is symmetric"
    return None


def _computed_in(model: PreTrainedModel, options: IntegerOptions) -> str:
    """What the layers multiply in on the device that they lie on, as torchao 0.18 does it."""
    if not options.uses_int8_kernel:
        return options.dtype
    kernel = "int8 x int8, int32 sums"
    if model.device.type != "cuda":
        return kernel
    odd = sum(
        any(width % KERNEL_MULTIPLE for width in (layer.in_features, layer.out_features))
        for _, layer in linear_layers(model)
    )
    words = (
        f"{kernel}; up to {MOST_ROWS_IN_FP32} rows in fp32; the weight is copied at each call to"
        " lie as the kernel wants it"
    )
    return f"{words}; {odd} layers of odd widths in int32 on the CPU" if odd else words


def _nominal_bytes(model: PreTrainedModel, options: IntegerOptions) -> float | None:
    """Bytes of the linear layers if codes, and zero points that are not 0, took `bits` each.

    None where they do.
    """
    if options.kernel == "packed":
        return None
    total = 0.0
    for _, layer in linear_layers(model):
        weight = layer.weight
        if not is_quantized(layer):
            total += weight.numel() * weight.element_size()
            continue
        total += weight.qdata.numel() * options.bits / 8
        for tensor in state_tensors(weight):
            if tensor is not getattr(weight, "zero_point", None):
                total += tensor.numel() * tensor.element_size()
            elif options.mapping == "asymmetric":
                total += tensor.numel() * options.bits / 8
    return total


def _group_warnings(model: PreTrainedModel, options: IntegerOptions) -> tuple[str, ...]:
    """Which layers the group left unquantized, and which groups would divide them all."""
    left = too_narrow(model, lambda width: group_fits(options, width))
    if not left:
        return ()
    widths = {layer.in_features for _, layer in linear_layers(model)}
    words = (
        f"group {options.group} does not divide the width of {len(left)} linear layers"
        f" ({with_widths(left)}), which stay in {options.dtype}; {fitting_group(widths)}"
    )
    return (words,)
