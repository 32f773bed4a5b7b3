"""Which options of an integer precision go together: what torchao 0.18 computes on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions.integer.packed import why_simulated

if TYPE_CHECKING:
    from qbench.precisions.integer.options import IntegerOptions

_OF_RANGES = ("calibration_method", "calibration_percentile")
_OF_WEIGHTS = {
    "damping": "gptq",
    "act_order": "gptq",
    "clipping": "awq",
    "rounding_steps": "autoround",
}
"""Options that one way to choose codes has for itself."""


def wrong_combination(options: IntegerOptions) -> str | None:
    """What was expected in place of options that do not go together; None where they do."""
    return (
        _wrong_group(options)
        or _wrong_activations(options)
        or _wrong_weights(options)
        or _wrong_calibration(options)
        or _wrong_kernel(options)
    )


def _wrong_kernel(options: IntegerOptions) -> str | None:
    why = why_simulated(options) if options.kernel == "packed" else None
    return None if why is None else f"what fits kernel: packed, or no kernel: {why}"


def _wrong_group(options: IntegerOptions) -> str | None:
    if options.granularity == "group" and options.group is None:
        return "`group`, the weights that share a scale, beside granularity: group, such as 128"
    if options.granularity != "group" and options.group is not None:
        return f"granularity: group beside `group: {options.group}` (not {options.granularity})"
    return None


def _wrong_activations(options: IntegerOptions) -> str | None:
    if options.activations == "static" and not (
        (options.bits, options.mapping) == (8, "symmetric") and options.granularity != "group"
    ):
        return (
            "bits: 8, mapping: symmetric and granularity: channel or tensor beside"
            " activations: static, the only weights that torchao multiplies with them"
        )
    simulated = options.activations == "dynamic" and not options.uses_int8_kernel
    if simulated and options.granularity == "tensor":
        return (
            "granularity: channel or group beside activations: dynamic; tensor goes with"
            " bits: 8 and mapping: symmetric alone"
        )
    return None


def _wrong_weights(options: IntegerOptions) -> str | None:
    if options.weights == "gptq" and (options.uses_int8_kernel or options.granularity == "tensor"):
        return (
            "granularity: channel or group, and weights that are dequantized (not the int8"
            " product of 8-bit activations), beside weights: gptq"
        )
    if options.weights in {"awq", "autoround"} and (
        options.activations != "none" or options.granularity == "tensor"
    ):
        return (
            "granularity: channel or group, and activations: none, beside weights:"
            f" {options.weights}"
        )
    if options.weights == "smoothquant" and not (
        options.uses_int8_kernel and options.activations == "dynamic"
    ):
        return (
            "bits: 8, mapping: symmetric, granularity: channel or tensor, and activations:"
            " dynamic beside weights: smoothquant, which moves outliers out of them"
        )
    if options.scales == "hqq" and (
        (options.mapping, options.weights) != ("symmetric", "rtn")
        or options.uses_int8_kernel
        or options.granularity == "tensor"
    ):
        return (
            "mapping: symmetric, granularity: channel or group, weights: rtn, and weights that are"
            " dequantized (not the int8 product of 8-bit activations), beside scales: hqq"
        )
    for name, weights in _OF_WEIGHTS.items():
        if _is_changed(options, name) and options.weights != weights:
            return f"weights: {weights} beside `{name}` (not {options.weights})"
    return None


def _wrong_calibration(options: IntegerOptions) -> str | None:
    changed = [
        name
        for name in type(options).model_fields
        if name.startswith("calibration_") and _is_changed(options, name)
    ]
    if changed and not options.calibrates:
        return (
            "activations: static or weights: gptq, awq, autoround or smoothquant beside"
            f" `{changed[0]}`; nothing is calibrated without"
        )
    of_ranges = [name for name in changed if name in _OF_RANGES]
    if of_ranges and options.activations != "static":
        return (
            f"activations: static beside `{of_ranges[0]}`, which chooses the range of static"
            " activations"
        )
    if "calibration_percentile" in changed and options.calibration_method != "percentile":
        return "calibration_method: percentile beside `calibration_percentile`"
    return None


def _is_changed(options: IntegerOptions, name: str) -> bool:
    return bool(getattr(options, name) != type(options).model_fields[name].default)
