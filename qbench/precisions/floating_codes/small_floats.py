"""Floating-point numbers of 4 and 8 bits by their definition: what each code stands for.

OCP 8-bit Floating Point Specification 1.0 (E4M3), OCP Microscaling Formats Specification 1.0 (E2M1
and the scales, E8M0). Nothing of torch's or torchao's own conversions is used: loaded layers are
held against this.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

E4M3_LARGEST = 448.0
"""Code 0.1111.110; 0.1111.111 is no number, and there is no infinity."""


@cache
def e4m3_values() -> tuple[float, ...]:
    """What the 256 codes stand for: a sign, 4 bits of exponent (bias 7), 3 bits of mantissa."""
    values = _values(exponent_bits=4, mantissa_bits=3, bias=7)
    not_a_number = (0x7F, 0xFF)
    return tuple(math.nan if code in not_a_number else value for code, value in enumerate(values))


def _values(exponent_bits: int, mantissa_bits: int, bias: int) -> list[float]:
    """Of every code: an exponent field of 0 has no 1 before the mantissa."""
    found = []
    for code in range(2 ** (1 + exponent_bits + mantissa_bits)):
        mantissa = code % 2**mantissa_bits / 2**mantissa_bits
        exponent = (code >> mantissa_bits) % 2**exponent_bits
        sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
        whole = mantissa + (exponent > 0)
        found.append(sign * math.ldexp(whole, max(exponent, 1) - bias))
    return found


def decoded(codes: torch.Tensor, values: tuple[float, ...]) -> torch.Tensor:
    """What codes of one byte each stand for, in fp32; `values` are those of all 256."""
    import torch

    table = torch.tensor(values, dtype=torch.float32, device=codes.device)
    found: torch.Tensor = table[codes.view(torch.uint8).int()]
    return found
