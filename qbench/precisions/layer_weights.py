"""The weights that a loaded layer computes with, whatever it holds of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from qbench.precisions.precision import Precision


class LibraryWeights:
    """What a precision says of weights whose format `held_weight` knows; stands before `Precision`.

    Without it nothing is measured of weights that are codes: see `Precision.dequantizes`.
    """

    def weights(self, layer: Any) -> torch.Tensor:
        """As the library dequantizes them."""
        return held_weight(layer)


def held_weight(layer: Any) -> torch.Tensor:
    """The weights of a layer of a known format, (out, in), as its library dequantizes them.

    Raises `MeasurementError` for codes of any other.
    """
    weight: torch.Tensor = layer.weight
    if getattr(weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        held: torch.Tensor = dequantize_4bit(weight.data, layer.weight.quant_state)
        return held
    if type(layer).__name__ == "Linear8bitLt":
        from qbench.precisions.int8 import library_weight

        return library_weight(layer)
    if hasattr(weight, "qdata"):
        from qbench.precisions.integer.layers import effective_weight

        return effective_weight(layer)
    if not is_number(weight):
        raise MeasurementError(
            f"qbench cannot dequantize a {type(layer).__name__} of {weight.dtype}; let the method"
            " `weights` of its precision do it, or leave out what compares weights"
        )
    return weight


def is_number(weight: torch.Tensor) -> bool:
    """Whether a layer's weight holds numbers, and not codes."""
    plain = not hasattr(weight, "qdata")
    return plain and weight.is_floating_point() and weight.element_size() > 1


def exact_weight(layer: Any, precision: Precision) -> torch.Tensor:
    """A layer's weights in fp32, those of 4-bit formats by their definition, without rounding."""
    from qbench.precisions.bnb4bit import naive_weight

    if getattr(layer.weight, "quant_state", None) is not None:
        return naive_weight(layer)
    return precision.weights(layer).float()
