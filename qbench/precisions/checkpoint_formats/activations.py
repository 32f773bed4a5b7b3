"""Inputs that a checkpoint's layer rounds before it multiplies, by definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.floating_codes.small_floats import E4M3_LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Product = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def rounds_inputs(layer: Any) -> bool:
    """Whether the layer rounds what goes into it."""
    weight = getattr(layer, "weight", None)
    return (
        getattr(weight, "act_quant_kwargs", None) is not None
        or getattr(weight, "activation_quantization", None) is not None
        or _scheme(layer) is not None
        or _is_bitnet(layer)
    )


def rounded_product(layer: Any) -> Product | None:
    """(layer, naive weights, inputs): its outputs without the bias, of a layer that rounds inputs.

    None for one that does not, or in a way that is not written out here.
    """
    if not rounds_inputs(layer):
        return None
    scheme = _scheme(layer)
    if _is_bitnet(layer):
        return _rounded_of_bitnet
    if scheme is None:
        from qbench.precisions.integer.layers import naive_output

        known = ("Int8Tensor", "IntxUnpackedToInt8Tensor")
        return naive_output if type(layer.weight).__name__ in known else None
    dynamic = scheme.dynamic in (True, False)
    known_type = scheme.num_bits == 8 and scheme.type in ("int", "float") and scheme.symmetric
    return _rounded if dynamic and known_type and scheme.strategy in _LIMITS else None


def _scheme(layer: Any) -> Any:
    """How compressed-tensors rounds a layer's inputs; None if it does not."""
    return getattr(getattr(layer, "quantization_scheme", None), "input_activations", None)


def _is_bitnet(layer: Any) -> bool:
    """Whether it is a layer of ternary codes, which rounds each row of its inputs to 8 bits."""
    return type(layer).__name__ == "BitLinear"


def _rounded_of_bitnet(_: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    steps = 127 / inputs.abs().amax(-1, keepdim=True).clamp_min(1e-5)
    codes = (inputs * steps).round().clamp(-128, 127)
    return (codes.float() / steps.float()) @ weight.T


def _rounded(layer: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """In the inputs' own type, as compressed-tensors has scales and quotients."""
    import torch

    scheme, values = _scheme(layer), inputs
    is_integer = scheme.type == "int"
    largest = 127.5 if is_integer else E4M3_LARGEST  # half of the 255 steps from -128 to 127
    if scheme.dynamic:
        scale = (_LIMITS[scheme.strategy](values, scheme.group_size) / largest).clamp_min(1e-12)
    else:
        scale = layer.input_scale.to(inputs.dtype)
    values = values / scale
    if is_integer:
        values = values.round().clamp(-128, 127)
    else:
        values = values.clamp(-largest, largest).to(torch.float8_e4m3fn).to(inputs.dtype)
    return (values * scale).float() @ weight.T


def _of_group(values: torch.Tensor, size: int) -> torch.Tensor:
    groups = values.reshape(len(values), -1, size).abs().amax(-1)
    return groups.repeat_interleave(size, dim=1)


_LIMITS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "token": lambda values, _: values.abs().amax(-1, keepdim=True),
    "tensor": lambda values, _: values.abs().max(),
    "group": _of_group,
}
"""The largest magnitude of what shares a scale."""
