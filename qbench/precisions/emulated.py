"""Why times of layers that dequantize their codes are not those of a format as it is served."""

from __future__ import annotations

_INSTEAD = "kernels that serve the format read the codes as they multiply"


def dequantized_first(library: str = "torchao") -> str:
    """Of weights that become floating ones as a whole before each product."""
    return f"emulated: {library} dequantizes all weights of a layer before each product; {_INSTEAD}"


def held_wider() -> str:
    """The same of codes of fewer bits than the byte that each lies in."""
    return (
        "emulated: each code lies in a byte of its own, and torchao dequantizes all weights of a"
        f" layer before each product; {_INSTEAD}"
    )


def rounded_inputs(library: str = "torchao") -> str:
    """Of inputs that are rounded, and then multiplied in floating point like the weights."""
    return (
        f"emulated: inputs are rounded, then multiplied with weights that {library} dequantizes, in"
        " floating point; kernels that serve the format multiply the codes"
    )
