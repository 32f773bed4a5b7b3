"""IEEE-like binary floating formats by their arithmetic alone (IEEE 754-2019, section 3.4).

A number is (-1)^sign · 2^(exponent - bias) · (1 + mantissa / 2^mantissa_bits); with an exponent
field of 0 it is (-1)^sign · 2^(1 - bias) · mantissa / 2^mantissa_bits: a subnormal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating format whose largest exponent field means infinity or not a number."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    """Bits that are stored: the leading one of a normal number is not."""

    @property
    def bits(self) -> int:
        """All bits of a number: sign, exponent and mantissa."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return math.ldexp(2 - self.epsilon, self.bias)

    @property
    def smallest_normal(self) -> float:
        """The smallest number with all its mantissa bits."""
        return math.ldexp(1.0, 1 - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest number above 0."""
        return self.smallest_normal * self.epsilon

    @property
    def epsilon(self) -> float:
        """Machine epsilon: from 1 to the next number."""
        return math.ldexp(1.0, -self.mantissa_bits)

    @property
    def finite_values(self) -> int:
        """How many numbers there are, +0 and -0 counted as one."""
        return int(2 ** (1 + self.mantissa_bits)) * (int(2**self.exponent_bits) - 1) - 1

    def spacing(self, value: float) -> float:
        """From a value's own power of two to its next: the distance of neighbours there."""
        if abs(value) < self.smallest_normal:
            return self.smallest_subnormal
        return math.ldexp(self.epsilon, math.frexp(abs(value))[1] - 1)

    def take_apart(self, pattern: int) -> Parts:
        """The fields of a bit pattern."""
        mantissa = pattern & ((1 << self.mantissa_bits) - 1)
        exponent = (pattern >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1)
        return Parts(self, pattern >> (self.bits - 1), exponent, mantissa)


@dataclass(frozen=True)
class Parts:
    """The three fields of a number, as stored."""

    format: FloatFormat
    sign: int
    exponent: int
    mantissa: int

    @property
    def written(self) -> str:
        """The bits: sign, exponent, mantissa, with spaces between them."""
        exponent = f"{self.exponent:0{self.format.exponent_bits}b}"
        return f"{self.sign} {exponent} {self.mantissa:0{self.format.mantissa_bits}b}"

    @property
    def power(self) -> int:
        """The power of two that the exponent field stands for."""
        return max(self.exponent, 1) - self.format.bias

    @property
    def significand(self) -> float:
        """What the power of two is multiplied by: 1 to 2, below 1 for a subnormal."""
        return (self.exponent > 0) + self.mantissa * self.format.epsilon

    @property
    def value(self) -> float:
        """The number; the fields must be those of a finite one."""
        return (-1.0 if self.sign else 1.0) * math.ldexp(self.significand, self.power)


FORMATS = {
    "fp32": FloatFormat("fp32", exponent_bits=8, mantissa_bits=23),
    "bf16": FloatFormat("bf16", exponent_bits=8, mantissa_bits=7),
    "fp16": FloatFormat("fp16", exponent_bits=5, mantissa_bits=10),
}
"""The floating formats that weights are held in."""
