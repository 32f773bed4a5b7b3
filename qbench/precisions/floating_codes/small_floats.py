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

E4M3_LARGEST, E2M1_LARGEST = 448.0, 6.0
"""Codes 0.1111.110 and 0.11.1. E4M3 has no infinity, and no number at 0.1111.111; E2M1 has only
numbers."""
E8M0_BIAS, E8M0_LEAST, E8M0_LARGEST = 127, -127, 127
"""Exponents of the powers of two that E8M0 holds; code 255 is no number."""


@cache
def e4m3_values() -> tuple[float, ...]:
    """What the 256 codes stand for: a sign, 4 bits of exponent (bias 7), 3 bits of mantissa."""
    values = _values(exponent_bits=4, mantissa_bits=3, bias=7)
    not_a_number = (0x7F, 0xFF)
    return tuple(math.nan if code in not_a_number else value for code, value in enumerate(values))


@cache
def e2m1_values() -> tuple[float, ...]:
    """What the 16 codes stand for: a sign, 2 bits of exponent (bias 1), 1 bit of mantissa."""
    return tuple(_values(exponent_bits=2, mantissa_bits=1, bias=1))


@cache
def e8m0_values() -> tuple[float, ...]:
    """What the 256 codes stand for: 2 to the power of the code less 127, without sign."""
    return (*(2.0 ** (code - E8M0_BIAS) for code in range(255)), math.nan)


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
    """What codes of one byte each stand for, in fp32; `values` are those of all codes."""
    import torch

    table = torch.tensor(values, dtype=torch.float32, device=codes.device)
    found: torch.Tensor = table[codes.view(torch.uint8).int()]
    return found


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Codes of 4 bits, (…, width): of the two in a byte the first is its lower half."""
    import torch

    return torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)


def rounded_to(values: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    """Each value as the nearest of a format's numbers, of two as near that of the even code.

    `levels` are what the codes without a sign stand for, ascending, not-a-numbers left out.
    """
    import torch

    table = torch.tensor(levels, dtype=torch.float32, device=values.device)
    middles = (table[1:] + table[:-1]) / 2
    sizes = values.abs().contiguous()
    below, above = (torch.bucketize(sizes, middles, right=right) for right in (False, True))
    found = table[torch.where(below % 2 == 0, below, above)]
    return torch.where(sizes.isnan(), sizes, found.copysign(values))


@cache
def positive(values: tuple[float, ...]) -> tuple[float, ...]:
    """The numbers without a sign, at the place of their codes."""
    return tuple(value for value in values[: len(values) // 2] if not math.isnan(value))
